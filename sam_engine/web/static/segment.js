// Segment: click on an image, get a mask, correct it, take it away.
import { ask, count, element } from "./dom.js";
import { DrawnMask } from "./drawn_mask.js";
import { MaskStack } from "./masks.js";
import { PromptSession } from "./prompting.js";
import { decodeCounts } from "./rle.js";
import { SegmentPanel, dropZone } from "./segment_panel.js";
import { Stage } from "./stage.js";
import { Steps } from "./undo.js";

const NOTHING = Object.freeze({ points: [], labels: [], box: null, candidates: [], chosen: 0 });
const COLOURS = {
  mask: [[63, 182, 168, 120], [190, 255, 246, 255]],
  preview: [[255, 230, 120, 90], [255, 230, 120, 255]],
  kept: [[120, 140, 255, 90], [160, 175, 255, 255]],
};
const CLICK_PIXELS = 4; // of the stage: moved farther, a click is a box

let starting; // one session for all images: the decoder is loaded once

export async function showSegment(page, ref, signal) {
  page.replaceChildren(element("p", { class: "dim padded" }, "Loading the model…"));
  starting ??= PromptSession.start().catch((error) => {
    starting = undefined;
    throw error;
  });
  const session = await starting;
  if (signal.aborted) return;
  if (!ref) {
    page.replaceChildren(dropZone(session, (file) => upload(page, session, file)));
    takeFiles(page, signal, (file) => upload(page, session, file));
    return;
  }
  const workspace = new Workspace(session, signal);
  page.replaceChildren(workspace.root);
  takeFiles(page, signal, (file) => upload(page, session, file));
  await workspace.open(ref);
}

/** Hand the first file that is dropped or pasted to `take`. */
function takeFiles(page, signal, take) {
  const over = (event) => {
    event.preventDefault();
    page.classList.add("dropping");
  };
  page.addEventListener("dragover", over, { signal });
  page.addEventListener("dragleave", () => page.classList.remove("dropping"), { signal });
  page.addEventListener("drop", (event) => {
    event.preventDefault();
    page.classList.remove("dropping");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  }, { signal });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
  }, { signal });
}

async function upload(page, session, file) {
  const note = element("p", { class: "notice", role: "status" }, `Sending ${file.name}…`);
  page.querySelector(".notice")?.remove();
  page.append(note);
  try {
    const { ref } = await session.upload(file);
    location.hash = `#/segment/${ref}`;
    note.remove();
  } catch (error) {
    note.classList.add("problem");
    note.textContent = `${file.name} cannot be used. ${error.message}`;
  }
}

class Workspace {
  constructor(session, signal) {
    Object.assign(this, { session, signal, mode: "include", hovers: true, kept: [], steps: new Steps(NOTHING) });
    this.canvas = element("canvas", { tabindex: 0, role: "application", "aria-label": "image to segment", "aria-describedby": "how" });
    this.status = element("div", { class: "tip", id: "status", role: "status", "aria-live": "polite" });
    this.stageRoot = element("div", { class: "stage" }, this.canvas, this.status);
    this.panel = new SegmentPanel(this);
    this.root = element("div", { class: "workspace segment" }, this.stageRoot, this.panel.root);
    this.stage = new Stage({ root: this.stageRoot, canvas: this.canvas, signal, draw: (...given) => this.draw(...given) });
    this.pictures = new Map();
    this.listen();
    session.addEventListener("decoding", () => this.panel.showDecoding(), { signal });
  }

  async open(ref) {
    this.status.textContent = "The image is being encoded: once, then every click is quick.";
    const { session, signal } = this;
    const picture = new Image();
    picture.src = `/api/prompting/${ref}/pixels.jpg`;
    const shown = picture.decode().then(() => {
      this.picture = picture;
      if (!this.image) this.stage.fit(picture.naturalWidth, picture.naturalHeight);
    });
    this.image = await session.open(ref, { signal });
    await shown;
    if (signal.aborted) return;
    this.stage.fit(this.image.width, this.image.height);
    this.cross = [this.image.width / 2, this.image.height / 2].map(Math.floor);
    this.panel.showImage(this.image);
    this.show();
    if (this.image.next) session.ahead(this.image.next);
  }

  get state() {
    return this.steps.now;
  }

  get isEmpty() {
    return this.state === NOTHING;
  }

  // ---- prompts ----

  /** Add to the prompt, ask for its masks, and refine what was there. */
  async prompt(change) {
    const { state } = this;
    const prompt = { points: state.points, labels: state.labels, box: state.box, ...change };
    const previous = state.candidates[state.chosen]?.logits;
    this.preview = undefined;
    const asked = { ...prompt, candidates: state.candidates, chosen: state.chosen };
    this.steps.go(asked);
    this.show();
    try {
      const found = await this.session.predict({ ...prompt, previous });
      if (found === null || this.signal.aborted) return;
      const candidates = found.candidates.map((candidate) => ({ ...candidate, mask: this.session.mask(candidate) }));
      Object.assign(asked, { candidates, chosen: found.chosen, ms: found.ms, by: found.by });
      this.panel.showTime(found);
      this.show();
    } catch (error) {
      this.steps.undo();
      this.show(error.message);
    }
  }

  point([x, y], isForeground) {
    const { points, labels } = this.state;
    this.prompt({ points: [...points, [x, y]], labels: [...labels, isForeground ? 1 : 0] });
  }

  box([x, y], [otherX, otherY]) {
    this.prompt({ box: [Math.min(x, otherX), Math.min(y, otherY), Math.max(x, otherX), Math.max(y, otherY)] });
  }

  async hover(at) {
    if (!this.hovers || !this.isEmpty || !this.image || this.everything) return;
    this.hovered = at;
    if (!this.stage.covers(at)) return this.unhover();
    try {
      const found = await this.session.predict({ points: [at], labels: [1] }, { preview: true });
      if (found === null || !this.isEmpty || this.hovered === undefined) return;
      this.preview = this.session.mask(found.candidates[found.chosen]);
      this.panel.showTime(found);
      this.stage.redraw();
    } catch {
      this.preview = undefined; // the next click says what is wrong
    }
  }

  unhover() {
    this.hovered = this.preview = undefined;
    this.stage.redraw();
  }

  choose(number) {
    if (number >= this.state.candidates.length) return;
    this.state.chosen = number;
    this.show();
  }

  undo() {
    this.steps.undo();
    this.show();
  }

  redo() {
    this.steps.redo();
    this.show();
  }

  clear() {
    if (!this.isEmpty) this.steps.go(NOTHING);
    this.corner = this.everything = undefined;
    this.show();
  }

  get mask() {
    return this.state.candidates[this.state.chosen]?.mask;
  }

  keep() {
    const { mask, state } = this;
    if (!mask?.box) return;
    this.kept.push({ mask, score: state.candidates[state.chosen].score, points: state.points, labels: state.labels, box: state.box });
    this.steps.go(NOTHING);
    this.panel.how.open = false; // who has come so far knows it, and what is kept needs room
    this.show(`Kept as cut-out ${this.kept.length}.`);
  }

  forget(place) {
    this.kept.splice(place, 1);
    this.show();
  }

  /** Show all masks of the image, of which each can be picked. */
  async findEverything() {
    this.show("Looking for everything: some seconds.");
    try {
      const { masks } = await ask(`/api/prompting/${this.image.ref}/everything`, this.signal);
      const { width, height } = this.image;
      const stack = new MaskStack(width, height, masks);
      const overlay = new ImageData(width, height);
      stack.paint(overlay, { colour: "mask", fill: true, outlines: true, uncovered: false });
      const canvas = element("canvas", { width, height });
      canvas.getContext("2d").putImageData(overlay, 0, 0);
      this.everything = { stack, canvas };
      this.preview = undefined;
      this.show(`${count(masks.length)} masks. Click one to take it; Esc to go back.`);
    } catch (error) {
      if (!this.signal.aborted) this.show(error.message);
    }
  }

  pick(at) {
    const { stack } = this.everything;
    const number = stack.at(...at.map(Math.round));
    if (number < 0) return;
    const { segmentation: { counts, size }, predicted_iou: score } = stack.masks[number];
    const mask = new DrawnMask(size[1], size[0], decodeCounts(counts, size));
    this.everything = undefined;
    this.steps.go({ ...NOTHING, candidates: [{ score, mask }] });
    this.show();
  }

  // ---- drawing ----

  show(words) {
    this.status.textContent = words ?? this.describe();
    this.panel.show();
    this.stage.redraw();
  }

  describe() {
    if (this.isEmpty) return "Click on a thing.";
    const { mask, state } = this;
    if (!mask) return "…";
    const share = ((100 * mask.area) / (mask.width * mask.height)).toFixed(1);
    return `${count(mask.area)} pixels, ${share} % of the image · score ${state.candidates[state.chosen].score.toFixed(2)}`;
  }

  draw(context, scale) {
    if (this.picture) context.drawImage(this.picture, 0, 0, this.stage.width, this.stage.height);
    if (this.everything) context.drawImage(this.everything.canvas, 0, 0);
    for (const { mask } of this.kept) this.drawMask(context, mask, "kept");
    if (this.mask) this.drawMask(context, this.mask, "mask");
    else if (this.preview) this.drawMask(context, this.preview, "preview");
    const { points, labels, box } = this.state;
    context.lineWidth = 2 / scale;
    for (const [start, end] of [box && [box.slice(0, 2), box.slice(2)], this.rubber].filter(Boolean)) {
      context.strokeStyle = "#fff";
      context.strokeRect(start[0] + 0.5, start[1] + 0.5, end[0] - start[0], end[1] - start[1]);
    }
    points.forEach(([x, y], number) => drawPoint(context, x + 0.5, y + 0.5, 7 / scale, labels[number]));
    if (document.activeElement === this.canvas && this.usesKeys) drawCross(context, this.cross, scale);
  }

  drawMask(context, mask, kind) {
    if (!mask.box) return;
    if (!this.pictures.has(mask)) {
      if (this.pictures.size > 32) this.pictures.clear();
      this.pictures.set(mask, {});
    }
    const made = this.pictures.get(mask);
    made[kind] ??= mask.paint(...COLOURS[kind]);
    context.drawImage(made[kind], mask.box.left, mask.box.top);
  }

  // ---- events ----

  listen() {
    const { canvas, stage, signal } = this;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.image) return;
      canvas.setPointerCapture(event.pointerId);
      this.usesKeys = false;
      const moves = this.mode === "move" || event.button === 1;
      this.press = { at: stage.toImage(event), moves, isRight: event.button === 2 || event.shiftKey, far: 0 };
    });
    canvas.addEventListener("pointermove", (event) => {
      const { press } = this;
      if (!press) return this.hover(stage.toImage(event));
      press.far += Math.abs(event.movementX) + Math.abs(event.movementY);
      if (press.moves) stage.move(event.movementX, event.movementY);
      else if (press.far > CLICK_PIXELS && !this.everything) {
        this.rubber = [press.at, stage.toImage(event)];
        stage.redraw();
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      const { press, rubber } = this;
      this.press = this.rubber = undefined;
      if (!press || press.moves) return;
      if (this.everything) this.pick(press.at);
      else if (rubber) this.box(this.within(press.at), this.within(stage.toImage(event)));
      else if (stage.covers(press.at) && this.mode !== "box") this.point(press.at, this.mode === "include" && !press.isRight);
    });
    canvas.addEventListener("pointercancel", () => { this.press = this.rubber = undefined; });
    canvas.addEventListener("pointerleave", () => this.unhover());
    canvas.addEventListener("blur", () => stage.redraw());
    addEventListener("keydown", (event) => this.key(event), { signal });
  }

  within([x, y]) {
    return [Math.max(0, Math.min(this.image.width - 1, x)), Math.max(0, Math.min(this.image.height - 1, y))];
  }

  key(event) {
    if (!this.image || event.altKey || event.target.matches("input:not([type=radio], [type=checkbox]), select, textarea")) return;
    const isOnCanvas = event.target === this.canvas;
    const isFree = isOnCanvas || !event.target.matches("button, a, label, input");
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(this.image.width / 50));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const named = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (named === "z") event.shiftKey ? this.redo() : this.undo();
      else if (named === "y") this.redo();
      else return;
    } else if (isOnCanvas && moves[event.key]) {
      this.usesKeys = true;
      this.cross = this.within([this.cross[0] + moves[event.key][0], this.cross[1] + moves[event.key][1]]);
      this.hover(this.cross);
      this.stage.redraw();
    } else if (isOnCanvas && event.key === " ") this.atCross();
    else if (isFree && event.key === "Enter") this.keep();
    else if (event.key === "Escape") this.clear();
    else if (/^[1-4]$/.test(event.key)) this.choose(Number(event.key) - 1);
    else if (named === "z") this.undo();
    else if (named === "y") this.redo();
    else if (named === "e") this.findEverything();
    else if (event.key === "+" || event.key === "=") this.stage.zoom(1.25);
    else if (event.key === "-") this.stage.zoom(0.8);
    else if (event.key === "0") this.stage.fit();
    else if (!this.panel.key(named)) return;
    event.preventDefault();
  }

  /** Do with the cross of the keyboard what a click there would do. */
  atCross() {
    this.usesKeys = true;
    if (this.everything) this.pick(this.cross);
    else if (this.mode !== "box") this.point(this.cross, this.mode !== "exclude");
    else if (this.corner === undefined) {
      this.corner = this.cross;
      this.show("One corner is set. Move to the other and press Space.");
    } else {
      const { corner } = this;
      this.corner = undefined;
      this.box(corner, this.cross);
    }
  }
}

function drawPoint(context, x, y, radius, label) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = label ? "#35d07f" : "#f0506a";
  context.fill();
  context.lineWidth = radius / 3.5;
  context.strokeStyle = "#fff";
  context.stroke();
  context.beginPath(); // a plus or a minus: not by colour alone
  context.moveTo(x - radius / 2, y);
  context.lineTo(x + radius / 2, y);
  if (label) {
    context.moveTo(x, y - radius / 2);
    context.lineTo(x, y + radius / 2);
  }
  context.stroke();
}

function drawCross(context, [x, y], scale) {
  const arm = 12 / scale;
  context.strokeStyle = "#fff";
  context.lineWidth = 1.5 / scale;
  context.beginPath();
  context.moveTo(x + 0.5 - arm, y + 0.5);
  context.lineTo(x + 0.5 + arm, y + 0.5);
  context.moveTo(x + 0.5, y + 0.5 - arm);
  context.lineTo(x + 0.5, y + 0.5 + arm);
  context.stroke();
}
