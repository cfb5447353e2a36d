// One mask of an image as run lengths, by columns and background first; and what is made of it.
import { encodeRuns } from "./rle.js";

export class DrawnMask {
  constructor(width, height, runs) {
    Object.assign(this, { width, height, runs });
    this.measure();
  }

  /** Find area and box: { left, top, width, height } of the pixels covered, null if there are none. */
  measure() {
    let [area, left, right, top, bottom] = [0, this.width, -1, this.height, -1];
    this.forEachStretch((x, y0, y1) => {
      area += y1 - y0;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y0);
      bottom = Math.max(bottom, y1 - 1);
    });
    this.area = area;
    this.box = area ? { left, top, width: right - left + 1, height: bottom - top + 1 } : null;
  }

  /** Call `visit(x, y0, y1)` for each vertical stretch of the mask. */
  forEachStretch(visit) {
    const { height, runs } = this;
    let place = 0;
    runs.forEach((run, number) => {
      const end = place + run;
      if (number % 2) {
        while (place < end) {
          const x = Math.floor(place / height);
          const stop = Math.min(end, (x + 1) * height);
          visit(x, place - x * height, stop - x * height);
          place = stop;
        }
      }
      place = end;
    });
  }

  /** Return COCO's compressed run lengths: { size, counts }. */
  toRle() {
    return { size: [this.height, this.width], counts: encodeRuns(this.runs) };
  }

  /** Return a canvas of the mask's box with its pixels in `rgba`, and with `edge`, of the same form, along its rim. */
  paint(rgba, edge) {
    const { left, top, width, height } = this.box;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const inside = pack(rgba);
    this.forEachStretch((x, y0, y1) => {
      for (let y = y0; y < y1; y++) pixels[(y - top) * width + x - left] = inside;
    });
    if (edge) {
      const rim = pack(edge);
      const isRim = (x, y, at) => x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
        !pixels[at - 1] || !pixels[at + 1] || !pixels[at - width] || !pixels[at + width];
      const rims = [];
      for (let y = 0, at = 0; y < height; y++) {
        for (let x = 0; x < width; x++, at++) if (pixels[at] && isRim(x, y, at)) rims.push(at);
      }
      for (const at of rims) pixels[at] = rim;
    }
    return canvasOf(image);
  }

  /** Return a canvas of the mask's box: the pixels of a picture of the image, and nothing round them. */
  cutOut(picture) {
    const canvas = this.paint([255, 255, 255, 255]);
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "source-in";
    context.drawImage(picture, -this.box.left, -this.box.top, this.width, this.height);
    return canvas;
  }

  /** Return a canvas of the whole image, white where the mask is and black elsewhere. */
  whole() {
    const canvas = canvasOf(new ImageData(this.width, this.height));
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, this.width, this.height);
    if (this.box) context.drawImage(this.paint([255, 255, 255, 255]), this.box.left, this.box.top);
    return canvas;
  }
}

const pack = ([red, green, blue, alpha]) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

function canvasOf(image) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
