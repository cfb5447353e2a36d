// Logits of the model's frame to a mask of the image: what `postprocess_masks` does in Python, as run lengths.
//
// Python resizes the 4h x 4w logits to the S x S input, cuts off the padding, and resizes what is left to the image,
// each time bilinearly. Both steps are linear in rows and in columns, so that a pixel of the image is a sum over at
// most three logits across times three down; their places and weights are found once for each row and each column.

const TAPS = 4;

/** Return the logits that each pixel along one side is made of: `index` and `weight`, TAPS for each. */
function tapsAlong(pixels, inside, square, logits) {
  const index = new Int32Array(TAPS * pixels);
  const weight = new Float32Array(TAPS * pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    let used = 0;
    const add = (place, share) => {
      for (let i = 0; i < used; i++) {
        if (index[TAPS * pixel + i] === place) {
          weight[TAPS * pixel + i] += share;
          return;
        }
      }
      index[TAPS * pixel + used] = place;
      weight[TAPS * pixel + used++] = share;
    };
    for (const [middle, share] of between(pixel, inside / pixels, inside)) {
      for (const [place, part] of between(middle, logits / square, logits)) add(place, share * part);
    }
  }
  return { index, weight };
}

/** Return the two neighbours of a pixel's centre in a row of `count`, and their shares. */
function between(pixel, scale, count) {
  const place = Math.max(0, (pixel + 0.5) * scale - 0.5);
  const low = Math.min(count - 1, Math.floor(place));
  const high = Math.min(count - 1, low + 1);
  const share = place - low;
  return [[low, 1 - share], [high, share]];
}

export class Upscaler {
  /**
   * Of an image: `size` and `inputSize` are [height, width] of it and of what the model saw of it, `square` the side of
   * the model's input, `side` that of its logits.
   */
  constructor({ size: [height, width], inputSize: [insideHeight, insideWidth], square, side }) {
    Object.assign(this, { height, width, side });
    this.down = tapsAlong(height, insideHeight, square, side);
    this.across = tapsAlong(width, insideWidth, square, side);
  }

  /** Return the run lengths, by columns and background first, of the pixels with logits above a threshold. */
  runs(logits, threshold) {
    const { height, width, side, down, across } = this;
    const column = new Float32Array(side);
    const runs = [];
    let start = 0;
    let isInside = 0;
    for (let x = 0; x < width; x++) {
      this.blend(logits, x, across, column);
      let y = 0;
      for (let tap = 0; y < height; y++, tap += TAPS) {
        const value = column[down.index[tap]] * down.weight[tap] + column[down.index[tap + 1]] * down.weight[tap + 1] +
          column[down.index[tap + 2]] * down.weight[tap + 2] + column[down.index[tap + 3]] * down.weight[tap + 3];
        if ((value > threshold ? 1 : 0) !== isInside) {
          const place = x * height + y;
          runs.push(place - start);
          start = place;
          isInside = 1 - isInside;
        }
      }
    }
    runs.push(width * height - start);
    return Uint32Array.from(runs);
  }

  /** Write one column of the image, at the height of the logits. */
  blend(logits, x, { index, weight }, column) {
    const { side } = this;
    const [a, b, c, d] = index.subarray(TAPS * x, TAPS * x + TAPS);
    const [p, q, r, s] = weight.subarray(TAPS * x, TAPS * x + TAPS);
    for (let row = 0, start = 0; row < side; row++, start += side) {
      column[row] = logits[start + a] * p + logits[start + b] * q + logits[start + c] * r + logits[start + d] * s;
    }
  }
}
