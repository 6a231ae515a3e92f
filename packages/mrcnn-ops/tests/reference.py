"""What the ops compute, in slow NumPy: one element at a time, straight from the definitions.

N images, R boxes or RoIs per image, L levels, C channels or classes, P output size, A anchors or boxes,
G ground truths, K crowds or masks, M mask size.
"""

import math

import numpy as np

f32 = np.float32
MAX_LOG_SCALE = math.log(1333 / 16)


# ---- ROIAlign ----------------------------------------------------------------


def level_of_box(box, *, num_levels, min_level=2, canonical_level=4, canonical_size=224.0):
    x1, y1, x2, y2 = (float(v) for v in box)
    area = max((x2 - x1) * (y2 - y1), 0.0)
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size + 1e-6))
    return min(max(level, min_level), min_level + num_levels - 1) - min_level


def bilinear_weights(y, x, height, width):
    """The up to four pixels that a sample reads, as {(row, column): weight}."""
    if y < -1 or y > height or x < -1 or x > width:
        return {}
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    weights = {}
    for row in (math.floor(y), min(math.floor(y) + 1, height - 1)):
        for column in (math.floor(x), min(math.floor(x) + 1, width - 1)):
            weights[row, column] = max(1 - abs(y - row), 0) * max(1 - abs(x - column), 0)
    return weights


def roi_align_weights(box, *, stride, height, width, output_size, sampling_ratio, aligned):
    """Yield (py, px, row, column, weight) of one box on its feature map."""
    if not np.isfinite(box).all():
        return
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (float(v) / stride - offset for v in box)
    box_width, box_height = x2 - x1, y2 - y1
    if not aligned:
        box_width, box_height = max(box_width, 1.0), max(box_height, 1.0)
    bin_width, bin_height = box_width / output_size, box_height / output_size
    for py in range(output_size):
        for px in range(output_size):
            for sy in range(sampling_ratio):
                for sx in range(sampling_ratio):
                    y = y1 + (py + (sy + 0.5) / sampling_ratio) * bin_height
                    x = x1 + (px + (sx + 0.5) / sampling_ratio) * bin_width
                    for (row, column), weight in bilinear_weights(y, x, height, width).items():
                        yield py, px, row, column, weight / sampling_ratio**2


def _roi_align_elements(shapes, boxes, *, strides, output_size, sampling_ratio=2, aligned=True, **level_rule):
    for image, image_boxes in enumerate(boxes):
        for r, box in enumerate(image_boxes):
            if not np.isfinite(box).all():
                continue
            level = level_of_box(box, num_levels=len(shapes), **level_rule)
            _, height, width, _ = shapes[level]
            for element in roi_align_weights(
                box,
                stride=strides[level],
                height=height,
                width=width,
                output_size=output_size,
                sampling_ratio=sampling_ratio,
                aligned=aligned,
            ):
                yield (image, r, level, *element)


def roi_align(features, boxes, *, output_size, **rule):
    output = np.zeros((*boxes.shape[:2], output_size, output_size, features[0].shape[-1]))
    shapes = [feature.shape for feature in features]
    for image, r, level, py, px, row, column, weight in _roi_align_elements(
        shapes, boxes, output_size=output_size, **rule
    ):
        output[image, r, py, px] += weight * features[level][image, row, column].astype(np.float64)
    return output


def roi_align_gradient(gradient, shapes, boxes, **rule):
    gradients = [np.zeros(shape) for shape in shapes]
    for image, r, level, py, px, row, column, weight in _roi_align_elements(shapes, boxes, **rule):
        gradients[level][image, row, column] += weight * gradient[image, r, py, px].astype(np.float64)
    return gradients


# ---- boxes -------------------------------------------------------------------


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return f32(width * height) if width > 0 and height > 0 else f32(0)


def iou(a, b):
    """float32 step by step, as the ops do it: thresholds and ties must fall alike."""
    a, b = np.asarray(a, f32), np.asarray(b, f32)
    if np.isnan(a).any() or np.isnan(b).any():
        return f32(0)
    part = intersection(a, b)
    return part / (area(a) + area(b) - part) if part > 0 else f32(0)


def nms(boxes, order, threshold, max_kept):
    """Return the indices of the boxes that are kept, in the given order."""
    kept = []
    for i in order:
        if len(kept) < max_kept and all(not iou(boxes[i], boxes[j]) > threshold for j in kept):
            kept.append(i)
    return kept


def decode(anchor, delta, max_log_scale):
    x1, y1, x2, y2 = anchor
    width, height = x2 - x1, y2 - y1
    with np.errstate(over="ignore", invalid="ignore"):
        x = delta[0] * width + (x1 + f32(0.5) * width)
        y = delta[1] * height + (y1 + f32(0.5) * height)
        half_width = f32(0.5) * (np.exp(np.minimum(delta[2], f32(max_log_scale))) * width)
        half_height = f32(0.5) * (np.exp(np.minimum(delta[3], f32(max_log_scale))) * height)
        return np.array([x - half_width, y - half_height, x + half_width, y + half_height], f32)


# ---- proposals ---------------------------------------------------------------


def generate_proposals(
    logits,
    deltas,
    anchors,
    image_sizes,
    level_sizes,
    *,
    pre_nms_top_k,
    post_nms_top_k,
    num_proposals,
    nms_threshold=0.7,
    min_size=0.0,
    max_log_scale=MAX_LOG_SCALE,
    keep_empty=False,
    keep_padding_anchors=False,
):
    num_images = len(logits)
    out_boxes = np.zeros((num_images, num_proposals, 4), f32)
    out_scores = np.zeros((num_images, num_proposals), f32)
    out_valid = np.zeros((num_images, num_proposals), bool)
    for image in range(num_images):
        height, width = image_sizes[image]
        found = []  # (-score, level, rank in the level, box)
        begin = 0
        for level, size in enumerate(level_sizes):
            selected = []
            for a in range(begin, begin + size):
                x, y = (anchors[a][:2] + anchors[a][2:]) / 2
                if np.isfinite(logits[image, a]) and (keep_padding_anchors or (x < width and y < height)):
                    selected.append((-logits[image, a], a))
            begin += size
            boxes, scores = [], []
            for negative, a in sorted(selected)[:pre_nms_top_k]:
                box = decode(anchors[a], deltas[image, a], max_log_scale)
                if not np.isfinite(box).all():
                    continue
                box = np.clip(box, 0, [width, height, width, height]).astype(f32)
                box_width, box_height = box[2] - box[0], box[3] - box[1]
                if not keep_empty and not (box_width > 0 and box_height > 0):
                    continue
                if box_width < min_size or box_height < min_size:
                    continue
                boxes.append(box)
                scores.append(-negative)
            for rank, i in enumerate(nms(boxes, range(len(boxes)), nms_threshold, post_nms_top_k)):
                found.append((-scores[i], level, rank, boxes[i]))
        found.sort(key=lambda entry: entry[:3])
        for i, (negative, _, _, box) in enumerate(found[:num_proposals]):
            out_boxes[image, i], out_scores[image, i], out_valid[image, i] = box, -negative, True
    return out_boxes, out_scores, out_valid


# ---- matching ----------------------------------------------------------------


def match_boxes(boxes, gt_boxes, gt_valid, crowd_boxes, boxes_valid=None):
    num_images, num_gt = gt_valid.shape
    if boxes.ndim == 2:
        boxes = np.broadcast_to(boxes, (num_images, *boxes.shape))
    num_boxes = boxes.shape[1]
    best_iou = np.zeros((num_images, num_boxes), f32)
    best_gt = np.full((num_images, num_boxes), -1, np.int32)
    is_best_for_gt = np.zeros((num_images, num_boxes), bool)
    crowd_overlap = np.zeros((num_images, num_boxes), f32)
    for n in range(num_images):
        ious = np.zeros((num_boxes, num_gt), f32)
        for a in range(num_boxes):
            if boxes_valid is not None and not boxes_valid[n, a]:
                continue
            for g in range(num_gt):
                if gt_valid[n, g]:
                    ious[a, g] = iou(boxes[n, a], gt_boxes[n, g])
                    if best_gt[n, a] < 0 or ious[a, g] > best_iou[n, a]:
                        best_gt[n, a], best_iou[n, a] = g, ious[a, g]
            for crowd in crowd_boxes[n]:
                part = intersection(boxes[n, a], crowd)
                if part > 0 and not np.isnan(boxes[n, a]).any():
                    crowd_overlap[n, a] = max(crowd_overlap[n, a], part / area(boxes[n, a]))
        for g in range(num_gt):
            if num_boxes and ious[:, g].max() > 0:
                is_best_for_gt[n] |= ious[:, g] == ious[:, g].max()
    return best_iou, best_gt, is_best_for_gt, crowd_overlap


# ---- detections --------------------------------------------------------------


def multiclass_nms(boxes, scores, *, score_threshold, nms_threshold, max_detections):
    num_images, num_rois, num_classes = scores.shape
    boxes = np.broadcast_to(boxes, (num_images, num_rois, num_classes, 4))
    out_boxes = np.zeros((num_images, max_detections, 4), f32)
    out_scores = np.zeros((num_images, max_detections), f32)
    out_classes = np.zeros((num_images, max_detections), np.int32)
    out_rois = np.zeros((num_images, max_detections), np.int32)
    out_valid = np.zeros((num_images, max_detections), bool)
    for n in range(num_images):
        found = []
        for c in range(num_classes):
            order = [
                (-scores[n, r, c], r)
                for r in range(num_rois)
                if np.isfinite([scores[n, r, c], *boxes[n, r, c]]).all() and scores[n, r, c] > score_threshold
            ]
            kept = nms(boxes[n, :, c], [r for _, r in sorted(order)], nms_threshold, max_detections)
            found += [(-scores[n, r, c], c, r) for r in kept]
        for i, (negative, c, r) in enumerate(sorted(found)[:max_detections]):
            out_boxes[n, i], out_scores[n, i], out_valid[n, i] = boxes[n, r, c], -negative, True
            out_classes[n, i], out_rois[n, i] = c + 1, r
    return out_boxes, out_scores, out_classes, out_rois, out_valid


# ---- masks -------------------------------------------------------------------


def _mask_taps(pixels, low, length, mask_size):
    """The mask's row (or column) before each pixel's centre, the one after, the fraction; float32 as in the op."""
    position = (pixels.astype(f32) + f32(0.5) - low) / length * f32(mask_size) - f32(0.5)
    position = np.clip(position, f32(0), f32(mask_size - 1))
    lower = np.floor(position).astype(int)
    return lower, np.minimum(lower + 1, mask_size - 1), position - lower.astype(f32)


def paste_mask(mask, box, height, width, threshold=0.5):
    """The bitmap [height, width] of a mask [M, M] in its box."""
    bitmap = np.zeros((height, width), np.uint8)
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all() or x2 <= x1 or y2 <= y1:
        return bitmap
    columns = np.arange(max(math.floor(x1), 0), min(math.ceil(x2), width))
    rows = np.arange(max(math.floor(y1), 0), min(math.ceil(y2), height))
    if len(columns) == 0 or len(rows) == 0:
        return bitmap
    low, high, fraction = _mask_taps(columns, x1, x2 - x1, len(mask))
    across = mask[:, low] + fraction * (mask[:, high] - mask[:, low])  # [M, columns]
    low, high, fraction = _mask_taps(rows, y1, y2 - y1, len(mask))
    values = across[low] + fraction[:, None] * (across[high] - across[low])  # [rows, columns]
    bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = values > f32(threshold)
    return bitmap


def decode_counts(counts: bytes, height, width):
    """The bitmap of a COCO compressed RLE."""
    runs, number, shift = [], 0, 0
    for character in counts:
        group = character - 48
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                number -= 1 << shift
            runs.append(number + runs[-2] if len(runs) > 2 else number)
            number, shift = 0, 0
    pixels = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    assert len(pixels) == height * width
    return pixels.reshape(width, height).T


def sgd(values, momenta, gradients, *, rate, momentum, weight_decays, rate_factors, scale=1.0, clip=1.0):
    """The new values, the new momenta, and the norm before clipping, in float64."""
    new_values, new_momenta, squares = [], [], 0.0
    for w, v, g, decay, factor in zip(values, momenta, gradients, weight_decays, rate_factors, strict=True):
        w, v = np.float64(w), np.float64(v)
        decayed = scale * np.float64(g) + decay * w
        squares += (decayed**2).sum()
        new_momenta.append(momentum * v + clip * decayed)
        new_values.append(w - rate * factor * new_momenta[-1])
    return new_values, new_momenta, math.sqrt(squares)


# ---- batch norm ----


def fold_batch_norm(kernel, gamma, beta, mean, variance, *, epsilon):
    """The folded kernel and bias, in float64."""
    scale = np.float64(gamma) / np.sqrt(np.float64(variance) + epsilon)
    return kernel * scale, beta - mean * scale


def group_norm(x, gamma, beta, *, groups, epsilon, relu=False):
    """One image, group and element after the other, in float64."""
    y = np.empty(np.shape(x))
    width = np.shape(x)[3] // groups
    for image in range(len(x)):
        for group in range(groups):
            channels = slice(group * width, (group + 1) * width)
            values = np.float64(x[image, :, :, channels])
            normalised = (values - values.mean()) / np.sqrt(values.var() + epsilon)
            y[image, :, :, channels] = normalised * gamma[channels] + beta[channels]
    return np.maximum(y, 0) if relu else y
