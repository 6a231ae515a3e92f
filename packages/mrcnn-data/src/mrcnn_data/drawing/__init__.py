"""Pictures of images with objects drawn over them, and sheets of such pictures."""

from mrcnn_data.drawing.contact_sheet import draw_contact_sheet
from mrcnn_data.drawing.objects import (
    GAP,
    GREY,
    MAX_EDGE,
    MIN_EDGE,
    TITLE_HEIGHT,
    Instance,
    class_color,
    draw_instances,
    spread,
    stack,
    titled,
    told_apart,
    write_png,
)

__all__ = [
    "GAP",
    "GREY",
    "MAX_EDGE",
    "MIN_EDGE",
    "TITLE_HEIGHT",
    "Instance",
    "class_color",
    "draw_contact_sheet",
    "draw_instances",
    "spread",
    "stack",
    "titled",
    "told_apart",
    "write_png",
]
