// A mask that is being made or mended: by prompts to the model, then by brush and eraser. Nothing of it is said yet.
import { fromSpans, paintStroke, toRuns } from "./bitmap.js";
import { element } from "./dom.js";
import { DrawnMask } from "./drawn_mask.js";
import { foreground } from "./rle.js";

const COLOURS = [[63, 182, 168, 130], [190, 255, 246, 255]]; // of the mask and its rim
const PACKED = 0xa0a8b63f; // the first of them as the canvas keeps it, while a stroke is drawn
const KEPT_STATES = 20;
const NO_PROMPT = Object.freeze({ points: [], labels: [], box: null, candidates: [], chosen: 0 });

export class Draft {
  /** `base` is the id of the mask that is mended and `bitmap` what it is now; null for a new one. */
  constructor({ width, height }, base, bitmap) {
    Object.assign(this, { width, height, base });
    this.states = [{ bitmap, prompt: NO_PROMPT, strokes: [] }];
  }

  get state() {
    return this.states.at(-1);
  }

  get isEmpty() {
    return this.states.length === 1;
  }

  /** Go back one prompt or stroke; false if nothing is left. */
  undo() {
    this.states.pop();
    this.painted = undefined;
    return this.states.length > 1;
  }

  go(state) {
    this.states.push(state);
    if (this.states.length > KEPT_STATES) this.states.splice(1, 1);
    this.painted = undefined;
  }

  // ---- prompts ----

  /** Add a point with its label or a box, and ask for the masks; throws with words for people. */
  async prompt(session, { point, label, box }) {
    if (this.state.bitmap) throw new Error("What the brush has touched is no longer the model's: keep it (Enter) before clicking on.");
    const { points, labels, box: boxBefore, candidates, chosen } = this.state.prompt;
    const corners = box && [0, 1].map((axis) => box.map((corner) => corner[axis]));
    const asked = {
      points: point ? [...points, point] : points, labels: point ? [...labels, label] : labels,
      box: corners ? [...corners.map((side) => Math.min(...side)), ...corners.map((side) => Math.max(...side))] : boxBefore,
    };
    const state = { bitmap: null, prompt: { ...asked, candidates, chosen }, strokes: [] };
    this.go(state);
    try {
      const found = await session.predict({ ...asked, previous: candidates[chosen]?.logits });
      if (found === null) return; // a newer prompt, which says all that this one said, is answered instead
      const masks = found.candidates.map((candidate) => ({ ...candidate, mask: session.mask(candidate) }));
      Object.assign(state.prompt, { candidates: masks, chosen: found.chosen });
      this.painted = undefined;
    } catch (error) {
      this.states.splice(this.states.indexOf(state), 1);
      throw error;
    }
  }

  /** Take another of the masks that the model offers. */
  choose(number) {
    if (number >= this.state.prompt.candidates.length || this.state.bitmap) return;
    this.state.prompt.chosen = number;
    this.painted = undefined;
  }

  // ---- strokes ----

  /** Paint from one point to another; the first piece of a stroke can be undone with all that follow. */
  stroke(from, to, radius, value, isFirst) {
    if (isFirst || !this.state.bitmap) {
      const bitmap = this.state.bitmap?.slice() ?? this.bitmapOfPrompt();
      this.go({ bitmap, prompt: this.state.prompt, strokes: [...this.state.strokes, value] });
    }
    this.paint();
    const box = paintStroke(this.state.bitmap, this.width, this.height, from, to, radius, value);
    if (box) this.repaint(box);
    this.made = undefined;
  }

  bitmapOfPrompt() {
    const bitmap = new Uint8Array(this.width * this.height);
    const mask = this.promptedMask();
    return mask ? fromSpans(foreground(mask.runs), bitmap.length) : bitmap;
  }

  // ---- what is there ----

  promptedMask() {
    const { candidates, chosen } = this.state.prompt;
    return candidates[chosen]?.mask;
  }

  /** Return the mask as it is now, undefined while the model has not answered. */
  mask() {
    if (!this.state.bitmap) return this.promptedMask();
    if (this.made?.bitmap !== this.state.bitmap || !this.made) {
      this.made = { bitmap: this.state.bitmap, mask: new DrawnMask(this.width, this.height, toRuns(this.state.bitmap)) };
    }
    return this.made.mask;
  }

  /** Return how it was made, as the log has it. */
  prompts() {
    const { prompt: { points, labels, box }, strokes } = this.state;
    const round = (values) => values.map((value) => Math.round(value * 10) / 10);
    return [
      ...(box ? [{ kind: "box", coords: round(box), foreground: true }] : []),
      ...points.map((point, number) => ({ kind: "point", coords: round(point), foreground: labels[number] === 1 })),
      ...strokes.map((value) => ({ kind: "stroke", coords: [], foreground: value === 1 })),
    ];
  }

  // ---- drawing ----

  /** Have a picture of the mask of the whole image's size, which strokes are painted into. */
  paint() {
    if (this.painted) return;
    const { width, height } = this;
    this.painted = element("canvas", { width, height });
    if (this.state.bitmap) this.repaint({ left: 0, top: 0, width, height });
    else {
      const mask = this.promptedMask();
      if (mask?.box) this.painted.getContext("2d").drawImage(mask.paint(...COLOURS), mask.box.left, mask.box.top);
    }
  }

  repaint({ left, top, width, height }) {
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { bitmap } = this.state;
    for (let x = 0; x < width; x++) {
      const column = (left + x) * this.height + top;
      for (let y = 0; y < height; y++) if (bitmap[column + y]) pixels[y * width + x] = PACKED;
    }
    this.painted.getContext("2d").putImageData(image, left, top);
  }

  draw(context, scale) {
    this.paint();
    context.drawImage(this.painted, 0, 0);
    const { points, labels, box } = this.state.prompt;
    context.strokeStyle = "#fff";
    context.lineWidth = 2 / scale;
    if (box) context.strokeRect(box[0] + 0.5, box[1] + 0.5, box[2] - box[0], box[3] - box[1]);
    points.forEach(([x, y], number) => {
      context.beginPath();
      context.arc(x + 0.5, y + 0.5, 6 / scale, 0, 2 * Math.PI);
      context.fillStyle = labels[number] ? "#35d07f" : "#f0506a";
      context.fill();
      context.stroke();
    });
  }
}
