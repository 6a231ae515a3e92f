"""The `mrcnn-data` command, and the import of masks that are pictures."""

from mrcnn_data.tools.mask_import import Imported, import_masks, write_imported

__all__ = ["Imported", "import_masks", "write_imported"]
