// A stack of masks that come, go and change: only the part of the picture that a change touches is made anew.
import { MaskStack } from "./masks.js";
import { decodeCounts, foreground } from "./rle.js";

export class EditableStack extends MaskStack {
  /** Take masks, and which of them are visible: a function of a mask. Masks that are `gone` never are. */
  constructor(width, height, masks, isVisible) {
    super(width, height, masks);
    this.isVisible = isVisible;
    this.numbers = new Map(masks.map((mask, number) => [mask.id, number]));
    this.refilter();
  }

  /** Ask anew which masks are visible. */
  refilter() {
    this.show((mask) => !mask.gone && this.isVisible(mask));
  }

  /** Put a mask in place of the one of its id, or beside the others; return the box that has to be painted anew. */
  put(mask) {
    const number = this.numbers.get(mask.id) ?? this.masks.length;
    const before = this.masks[number];
    const isNew = before === undefined;
    if (isNew || before.segmentation.counts !== mask.segmentation.counts) {
      this.spans[number] = foreground(decodeCounts(mask.segmentation.counts, mask.segmentation.size));
    }
    const boxes = isNew || before.gone ? [] : [this.box(number)];
    this.masks[number] = mask;
    this.numbers.set(mask.id, number);
    if (!mask.gone) boxes.push(this.box(number));
    if (isNew || before.area !== mask.area) {
      const { masks } = this;
      if (!isNew) this.byArea.splice(this.byArea.indexOf(number), 1);
      const place = this.byArea.findIndex((other) => masks[other].area < mask.area || (masks[other].area === mask.area && other > number));
      this.byArea.splice(place < 0 ? this.byArea.length : place, 0, number);
    }
    this.shown = this.byArea.filter((each) => !this.masks[each].gone && this.isVisible(this.masks[each]));
    const box = boxes.reduce(union, null);
    if (box) this.layAgain(box);
    return box;
  }

  /** Find out anew which mask is on top in a box. */
  layAgain({ left, top, width, height }) {
    const tall = this.height;
    const [right, bottom] = [left + width, top + height];
    for (let x = left; x < right; x++) this.top.fill(0, x * tall + top, x * tall + bottom);
    for (const number of this.shown) {
      const box = this.box(number);
      if (box.left >= right || box.top >= bottom || box.left + box.width <= left || box.top + box.height <= top) continue;
      const spans = this.spans[number];
      for (let i = firstFrom(spans, left * tall); i < spans.length && spans[i] < right * tall; i += 2) {
        for (let start = Math.max(spans[i], left * tall); start < Math.min(spans[i + 1], right * tall); ) {
          const column = Math.floor(start / tall) * tall;
          const end = Math.min(spans[i + 1], column + tall);
          if (end > column + top && start < column + bottom) {
            this.top.fill(number + 1, Math.max(start, column + top), Math.min(end, column + bottom));
          }
          start = end;
        }
      }
    }
  }
}

/** Return the smallest box that holds both. */
export function union(one, other) {
  if (!one || !other) return one ?? other;
  const left = Math.min(one.left, other.left);
  const top = Math.min(one.top, other.top);
  return {
    left, top,
    width: Math.max(one.left + one.width, other.left + other.width) - left,
    height: Math.max(one.top + one.height, other.top + other.height) - top,
  };
}

/** Return the place of the first span that ends after `place`. */
function firstFrom(spans, place) {
  let [low, high] = [0, spans.length / 2];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[2 * middle + 1] <= place) low = middle + 1;
    else high = middle;
  }
  return 2 * low;
}
