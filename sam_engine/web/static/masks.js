// The masks of one image: which is on top where, which lie under a point, and pictures of them.
import { decodeCounts, foreground } from "./rle.js";

const STRIP = 64; // rows
const GOLDEN_ANGLE = 0.61803398875; // successive hues are far apart, however many there are

/** Return [r, g, b] of a hue in [0, 1). */
export function hueColour(hue, saturation = 0.78, value = 1) {
  const channel = (n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

/** Return [r, g, b] of a score, from red for `low` to green for `high`. */
function scoreColour(score, low, high) {
  const share = Math.min(1, Math.max(0, (score - low) / (high - low)));
  return hueColour(share / 3);
}

export const COLOURS = {
  mask: (mask, number) => hueColour((number * GOLDEN_ANGLE) % 1),
  "predicted IoU": (mask) => scoreColour(mask.predicted_iou, 0.5, 1),
  stability: (mask) => scoreColour(mask.stability_score, 0.5, 1),
  size: (mask, number, pixels) => hueColour(0.75 * (1 - Math.sqrt(mask.area / pixels))),
};

/** Return 32 bits of ImageData. */
export const packed = ([red, green, blue], alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

export class MaskStack {
  constructor(width, height, masks) {
    this.width = width;
    this.height = height;
    this.masks = masks;
    this.spans = masks.map((mask) => foreground(decodeCounts(mask.segmentation.counts, mask.segmentation.size)));
    this.byArea = masks.map((_, number) => number).sort((a, b) => masks[b].area - masks[a].area || a - b);
    // Column-major as run lengths are, so that each run is one fill. 0 is no mask.
    this.top = new (masks.length < 65535 ? Uint16Array : Uint32Array)(width * height);
    this.show(() => true);
  }

  /** Lay the masks that pass over each other, the smallest on top. */
  show(passes) {
    this.shown = this.byArea.filter((number) => passes(this.masks[number]));
    this.top.fill(0);
    for (const number of this.shown) {
      const spans = this.spans[number];
      for (let i = 0; i < spans.length; i += 2) this.top.fill(number + 1, spans[i], spans[i + 1]);
    }
  }

  /** Return the number of the mask on top of a pixel, or -1. */
  at(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    return this.top[x * this.height + y] - 1;
  }

  /** Return the numbers of all shown masks at a pixel, the smallest first. */
  stackedAt(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return [];
    const place = x * this.height + y;
    return this.shown.filter((number) => this.covers(number, place)).reverse();
  }

  covers(number, place) {
    const spans = this.spans[number];
    let low = 0;
    let high = spans.length / 2;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[2 * middle + 1] <= place) low = middle + 1;
      else high = middle;
    }
    return 2 * low < spans.length && spans[2 * low] <= place;
  }

  /** Return the share of the image that no shown mask covers. */
  uncovered() {
    const { top } = this;
    let count = 0;
    for (let place = 0; place < top.length; place++) if (top[place] === 0) count++;
    return count / top.length;
  }

  /**
   * Paint all shown masks into `image`: ImageData of the whole image, or of every `step`th pixel of it; or repaint what a
   * box of the whole image holds of them. `colour` is one of `COLOURS`, or a function such as those.
   */
  paint(
    image, { colour, fill, outlines, uncovered, step = 1 },
    box = { left: 0, top: 0, width: this.width, height: this.height },
  ) {
    const { width, height, top } = this;
    const colourOf = COLOURS[colour] ?? colour;
    const pixels = new Uint32Array(image.data.buffer);
    const area = width * height;
    const fills = new Uint32Array(this.masks.length + 1);
    const edges = new Uint32Array(this.masks.length + 1);
    fills[0] = uncovered ? packed([235, 40, 120], 150) : 0;
    this.masks.forEach((mask, number) => {
      const rgb = colourOf(mask, number, area);
      fills[number + 1] = fill ? packed(rgb, 115) : 0;
      edges[number + 1] = packed(rgb.map((value) => Math.round(0.7 * value)), 255);
    });
    const right = Math.min(image.width, Math.ceil((box.left + box.width) / step));
    const end = Math.min(image.height, Math.ceil((box.top + box.height) / step));
    // Columns in, rows out: in strips that stay in a processor's cache on both sides.
    for (let strip = Math.floor(box.top / step); strip < end; strip += STRIP) {
      const bottom = Math.min(end, strip + STRIP);
      for (let i = Math.floor(box.left / step); i < right; i++) {
        const column = i * step * height;
        const next = (i + 1) * step < width ? step * height : 0;
        const before = i > 0 ? step * height : 0;
        for (let j = strip; j < bottom; j++) {
          const y = j * step;
          const place = column + y;
          const id = top[place];
          const isEdge =
            outlines && id !== 0 &&
            (top[place + next] !== id || top[place - before] !== id ||
              (y + step < height && top[place + step] !== id) || (j > 0 && top[place - step] !== id));
          pixels[j * image.width + i] = isEdge ? edges[id] : fills[id];
        }
      }
    }
  }

  /** Return { left, top, width, height } of the pixels that a mask covers. */
  box(number) {
    const [left, top, width, height] = this.masks[number].bbox; // SA-1B's: one less than the pixels covered
    return { left, top, width: width + 1, height: height + 1 };
  }

  /** Call `visit(x, y0, y1)` for each vertical stretch of a mask. */
  forEachStretch(number, visit) {
    const { height } = this;
    const spans = this.spans[number];
    for (let i = 0; i < spans.length; i += 2) {
      for (let start = spans[i]; start < spans[i + 1]; ) {
        const x = Math.floor(start / height);
        const end = Math.min(spans[i + 1], (x + 1) * height);
        visit(x, start - x * height, end - x * height);
        start = end;
      }
    }
  }

  /** Return the mask alone as ImageData of its box: foreground in `rgba`, background clear. */
  cut(number, rgba) {
    const { left, top, width, height } = this.box(number);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const value = packed(rgba, rgba[3]);
    this.forEachStretch(number, (x, y0, y1) => {
      for (let y = y0; y < y1; y++) pixels[(y - top) * width + x - left] = value;
    });
    return image;
  }

  /** Return the outline of a mask as a Path2D along the edges of pixels. */
  outline(number) {
    const path = new Path2D();
    const columns = new Map();
    this.forEachStretch(number, (x, y0, y1) => {
      if (!columns.has(x)) columns.set(x, []);
      columns.get(x).push([y0, y1]);
      path.moveTo(x, y0);
      path.lineTo(x + 1, y0);
      path.moveTo(x, y1);
      path.lineTo(x + 1, y1);
    });
    for (const x of columns.keys()) {
      for (const side of [x, x + 1]) {
        const there = columns.get(side === x ? x - 1 : x + 1) ?? [];
        for (const [y0, y1] of difference(columns.get(x), there)) {
          path.moveTo(side, y0);
          path.lineTo(side, y1);
        }
      }
    }
    return path;
  }
}

/** Return the stretches of `ours` that none of `theirs` covers; both ascending. */
function difference(ours, theirs) {
  const rest = [];
  let other = 0;
  for (let [y0, y1] of ours) {
    while (other < theirs.length && theirs[other][1] <= y0) other++;
    for (let i = other; i < theirs.length && theirs[i][0] < y1; i++) {
      if (theirs[i][0] > y0) rest.push([y0, theirs[i][0]]);
      y0 = Math.max(y0, theirs[i][1]);
    }
    if (y0 < y1) rest.push([y0, y1]);
  }
  return rest;
}
