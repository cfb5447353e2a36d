// The image with its masks, and the pointer on it: what is drawn, and what a press, a drag and a release mean.
import { element } from "./dom.js";
import { Stage } from "./stage.js";

const CLICK_PIXELS = 4; // of the stage: moved farther, a click is a drag
const COLOURS = { accepted: [70, 200, 150], open: [255, 170, 60] };
const isBrush = (tool) => tool === "brush" || tool === "eraser";

export class AnnotateCanvas {
  /** `view` has `image`, `stack`, `selected`, `draft`, `tool`, `brush`, and is told what the pointer does. */
  constructor(view, signal) {
    Object.assign(this, { view, opacity: 1, cuts: new Map() });
    const { width, height } = view.image;
    this.canvas = element("canvas", { tabindex: 0, role: "application", "aria-label": "image to annotate" });
    this.status = element("div", { class: "tip", id: "status", role: "status", "aria-live": "polite" });
    this.root = element("div", { class: "stage" }, this.canvas, this.status);
    this.overlay = element("canvas", { width, height });
    this.overlayImage = new ImageData(width, height);
    this.stage = new Stage({ root: this.root, canvas: this.canvas, signal, draw: (...given) => this.draw(...given) });
    const { canvas } = this;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => { this.pressed = this.rubber = undefined; });
    canvas.addEventListener("pointerleave", () => { this.pointer = undefined; this.stage.redraw(); });
  }

  /** Show the image as large as fits, and fetch its pixels; throws if they cannot be had. */
  async start() {
    const { image_id: id, width, height } = this.view.image;
    this.stage.fit(width, height);
    this.repaint();
    this.canvas.focus();
    const picture = new Image();
    picture.src = `/api/images/${id}/pixels.jpg`;
    await picture.decode();
    this.picture = picture;
    this.stage.redraw();
  }

  /** Measure, under a name, how long it takes from an event until its effect is drawn. */
  time(name, event) {
    this.began = { name, at: event.timeStamp };
  }

  // ---- drawing ----

  /** Paint what is visible, or the part of it in a box. */
  repaint(box) {
    const { image, stack } = this.view;
    const colour = (mask) => (mask.accepted ? COLOURS.accepted : COLOURS.open);
    const part = box ? grown(box, image) : { left: 0, top: 0, width: image.width, height: image.height };
    stack.paint(this.overlayImage, { colour, fill: true, outlines: true, uncovered: false }, part);
    this.overlay.getContext("2d").putImageData(this.overlayImage, 0, 0, part.left, part.top, part.width, part.height);
    this.stage.redraw();
  }

  draw(context, scale) {
    const { image, selected, draft, tool, brush } = this.view;
    context.fillStyle = "#39434d";
    context.fillRect(0, 0, image.width, image.height);
    if (this.picture) context.drawImage(this.picture, 0, 0, image.width, image.height);
    context.globalAlpha = this.opacity * (draft ? 0.35 : 1);
    context.drawImage(this.overlay, 0, 0);
    context.globalAlpha = 1;
    if (!draft) for (const id of selected) this.drawMask(context, id, scale);
    draft?.draw(context, scale);
    context.strokeStyle = "#fff";
    context.lineWidth = 2 / scale;
    if (this.rubber) drawRubber(context, this.rubber, tool);
    if (this.pointer && isBrush(tool)) {
      context.beginPath();
      context.arc(this.pointer[0] + 0.5, this.pointer[1] + 0.5, brush, 0, 2 * Math.PI);
      context.stroke();
    }
    if (this.began) performance.measure(this.began.name, { start: this.began.at, end: performance.now() });
    this.began = undefined;
  }

  drawMask(context, id, scale) {
    const { stack } = this.view;
    const number = stack.numbers.get(id);
    const mask = stack.masks[number];
    if (!this.cuts.has(mask)) {
      if (this.cuts.size > 32) this.cuts.clear();
      const image = stack.cut(number, [255, 255, 255, 110]);
      const canvas = element("canvas", { width: image.width, height: image.height });
      canvas.getContext("2d").putImageData(image, 0, 0);
      this.cuts.set(mask, { canvas, outline: stack.outline(number) });
    }
    const { canvas, outline } = this.cuts.get(mask);
    const { left, top } = stack.box(number);
    context.drawImage(canvas, left, top);
    context.strokeStyle = "#fff";
    context.lineWidth = 2 / scale;
    context.stroke(outline);
  }

  // ---- the pointer ----

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.canvas.focus();
    const { tool } = this.view;
    this.view.words = undefined;
    const at = this.stage.toImage(event);
    this.pressed = { at, last: at, moves: event.button === 1 || tool === "pick", isRight: event.button === 2, adds: event.shiftKey, far: 0 };
    if (!this.pressed.moves && isBrush(tool)) this.view.stroke(at, at, true);
  }

  move(event) {
    const { pressed, stage, view: { tool } } = this;
    const at = stage.toImage(event);
    this.pointer = at;
    if (pressed) {
      pressed.far += Math.abs(event.movementX) + Math.abs(event.movementY);
      if (pressed.moves) stage.move(event.movementX, event.movementY);
      else if (isBrush(tool)) this.view.stroke(pressed.last, at, false);
      else if (pressed.far > CLICK_PIXELS) this.rubber = [pressed.at, at];
      pressed.last = at;
    }
    stage.redraw();
  }

  release(event) {
    const { pressed, rubber, view } = this;
    this.pressed = this.rubber = undefined;
    if (!pressed) return;
    if (view.tool === "pick" && pressed.far <= CLICK_PIXELS && event.button === 0) {
      this.time("pick", event);
      view.choose(pressed.at, pressed.adds);
    } else if (view.tool === "prompt" && rubber) view.prompt({ box: rubber.map((corner) => this.within(corner)) });
    else if (view.tool === "prompt" && !pressed.moves && this.stage.covers(pressed.at)) {
      view.prompt({ point: pressed.at, label: pressed.isRight ? 0 : 1 });
    } else if (view.tool === "knife" && rubber) view.cut(...rubber);
    else if (isBrush(view.tool)) view.panel.show();
    this.stage.redraw();
  }

  within([x, y]) {
    const { width, height } = this.view.image;
    return [Math.max(0, Math.min(width - 1, x)), Math.max(0, Math.min(height - 1, y))];
  }
}

/** Return a box with a pixel round it, where the image goes on: rims of neighbours change, too. */
function grown(box, image) {
  const left = Math.max(0, box.left - 1);
  const top = Math.max(0, box.top - 1);
  return {
    left, top,
    width: Math.min(image.width, box.left + box.width + 1) - left,
    height: Math.min(image.height, box.top + box.height + 1) - top,
  };
}

function drawRubber(context, [[x, y], [otherX, otherY]], tool) {
  context.beginPath();
  if (tool === "knife") {
    context.moveTo(x + 0.5, y + 0.5);
    context.lineTo(otherX + 0.5, otherY + 0.5);
  } else context.rect(x + 0.5, y + 0.5, otherX - x, otherY - y);
  context.stroke();
}
