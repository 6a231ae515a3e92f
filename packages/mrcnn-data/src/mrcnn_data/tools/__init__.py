"""The `mrcnn-data` command, the import of masks that are pictures, and subsets of a dataset."""

from mrcnn_data.tools.mask_import import Imported, import_masks, write_imported
from mrcnn_data.tools.subset import Subset, choose_subset, write_subset

__all__ = ["Imported", "Subset", "choose_subset", "import_masks", "write_imported", "write_subset"]
