// Annotate: accept, mend, delete and draw the masks of one image after another. Keys first; see annotate_panel.js.
import { AnnotateCanvas } from "./annotate_canvas.js";
import { AnnotatePanel } from "./annotate_panel.js";
import { AnnotatedImage, newId } from "./annotated_image.js";
import { components, cutByLine, fromSpans, toRuns } from "./bitmap.js";
import { ask, element } from "./dom.js";
import { Draft } from "./draft.js";
import { DrawnMask } from "./drawn_mask.js";
import { EditableStack } from "./editable_masks.js";
import { PromptSession } from "./prompting.js";
import { Stopwatch } from "./stopwatch.js";

let starting; // one session for all images: the decoder is loaded once

/** Show an image to annotate; without an id the next one of the queue. */
export async function showAnnotate(page, imageId, signal) {
  const about = await ask("/api/annotate", signal);
  const settings = remembered(about);
  if (imageId === undefined) {
    const { image_id: next } = await nextImage(settings, undefined, signal);
    if (next !== null) location.replace(`#/annotate/${next}`);
    else page.replaceChildren(element("p", { class: "padded", id: "all-done" }, "No image is left: all are exhaustive, or open elsewhere. ",
      element("a", { href: "#/" }, "All images")));
    return;
  }
  const image = await AnnotatedImage.open(imageId, settings.by, signal);
  if (signal.aborted) return;
  const view = new AnnotateView(image, about, settings, signal);
  page.replaceChildren(view.root);
  view.start();
}

/** Return what this tab was set to, or what the program was started with. */
function remembered(about) {
  const of = (name, otherwise) => sessionStorage.getItem(`annotate ${name}`) ?? otherwise;
  return { by: of("by", about.annotator), stage: of("stage", about.stage), order: of("order", about.order), label: of("label", "") };
}

const nextImage = ({ by, order }, after, signal) =>
  ask(`/api/annotate/next?${new URLSearchParams({ by, order, ...(after === undefined ? {} : { after }) })}`, signal);

class AnnotateView {
  constructor(image, about, settings, signal) {
    Object.assign(this, { image, about, settings, signal, tool: "pick", brush: 12, selected: [] });
    this.stack = this.newStack();
    this.watch = new Stopwatch(signal);
    this.canvas = new AnnotateCanvas(this, signal);
    this.panel = new AnnotatePanel(this);
    this.root = element("div", { class: "workspace annotate", "data-image": image.image_id }, this.canvas.root, this.panel.root);
    this.hear();
    addEventListener("beforeunload", (event) => { if (this.image.waiting.length) event.preventDefault(); }, { signal });
    addEventListener("keydown", (event) => this.panel.key(event), { signal });
  }

  start() {
    this.canvas.start().catch(() => this.say("The image itself cannot be had: masks alone."));
    this.panel.show();
    this.startModel();
    if (this.settings.stage === "review") this.advance();
  }

  newStack() {
    const { width, height, masks } = this.image;
    return new EditableStack(width, height, [...masks.values()], (mask) => this.isVisible(mask));
  }

  /** Have clicks answered by a model, here or on the server; without one brush and eraser are left. */
  async startModel() {
    starting ??= PromptSession.start();
    try {
      const session = await starting;
      await session.open(`images/${this.image.image_id}`, { signal: this.signal });
      if (this.signal.aborted) return;
      this.session = session;
      this.panel.show();
      performance.mark("prompts ready");
      const { image_id: next } = await nextImage(this.settings, this.image.image_id, this.signal);
      if (next !== null) session.ahead(`images/${next}`);
    } catch (error) {
      starting = undefined;
      if (!this.signal.aborted) this.say(`Clicks are not answered: ${error.message}`);
    }
  }

  /** Return whether a mask is shown: in the stage manual people's alone, in semi the confident ones, too. */
  isVisible({ accepted, predicted_iou: iou, stability_score: stability }) {
    const { pred_iou_thresh: least, stability_score_thresh: stable } = this.about.confident;
    return accepted || this.settings.stage === "review" || (this.settings.stage === "semi" && iou >= least && stability >= stable);
  }

  set(name, value) {
    this.settings[name] = value;
    sessionStorage.setItem(`annotate ${name}`, value);
    if (name === "by") this.reload(null);
    if (name !== "stage") return;
    this.stack.refilter();
    this.canvas.repaint();
    this.select([]);
  }

  // ---- acts ----

  /** Do something in one go; what is selected afterwards are `chosen`. */
  act(kind, lines, chosen = []) {
    if (!lines.length) return;
    this.image.act(lines, { kind, stage: this.settings.stage, time_s: this.watch.take() });
    this.select(chosen);
  }

  undo() {
    if (this.draft) return this.changeDraft((draft) => draft.undo());
    this.select([]);
    this.image.undoLast({ stage: this.settings.stage, time_s: this.watch.take() });
  }

  redo() {
    this.select([]);
    this.image.redoLast({ stage: this.settings.stage, time_s: this.watch.take() });
  }

  accept() {
    const ids = this.selected;
    this.act("accept", ids.map((id) => ({ operation: "accept", mask_id: id })));
    if (ids.length) this.advance();
  }

  remove(kind) {
    const next = kind === "reject" && this.selected.length;
    this.act(kind, this.selected.map((id) => ({ operation: "delete", mask_id: id })));
    if (next) this.advance();
  }

  label(text) {
    const label = text.trim() || null;
    this.act("label", this.selected.map((id) => ({ operation: "label", mask_id: id, label })), this.selected);
  }

  merge() {
    if (this.selected.length < 2) return this.say("Choose at least two masks (Shift and click), then merge.");
    const whole = new Uint8Array(this.stack.top.length);
    for (const id of this.selected) this.bitmapOf(id).forEach((value, place) => { if (value) whole[place] = 1; });
    this.replaceSelected("merge", [whole]);
  }

  /** Cut the chosen mask into the parts that do not touch. */
  split() {
    if (this.selected.length !== 1) return this.say("Choose one mask, then split it.");
    const parts = components(this.bitmapOf(this.selected[0]), this.image.height);
    if (parts.length < 2) return this.say("It is in one piece: cut it with the knife (k), a line across it.");
    this.replaceSelected("split", parts);
  }

  cut(from, to) {
    if (this.selected.length !== 1) return this.say("Choose one mask before cutting it.");
    const parts = cutByLine(this.bitmapOf(this.selected[0]), this.image.height, from, to);
    if (!parts.every((part) => part.includes(1))) return this.say("The line leaves the mask whole.");
    this.replaceSelected("split", parts);
    this.use("pick");
  }

  /** Put masks in place of the chosen ones, in one act; they are called what the first of these was. */
  replaceSelected(kind, bitmaps) {
    const label = this.image.masks.get(this.selected[0]).label;
    const added = bitmaps.map((bitmap) => lineOf("add", newId(), this.maskOf(bitmap), { label }));
    const deleted = this.selected.map((id) => ({ operation: "delete", mask_id: id }));
    this.act(kind, [...deleted, ...added], added.map(({ mask_id: id }) => id));
  }

  /** Write the draft down: as a new mask, or in place of the one that it was begun from. */
  commit() {
    const { draft } = this;
    const mask = draft?.mask();
    if (!mask?.box) return this.say("There is nothing to keep yet.");
    this.draft = undefined;
    const prompts = draft.prompts();
    const isNew = draft.base === null;
    const line = isNew
      ? lineOf("add", newId(), mask, { prompts, label: this.settings.label || null })
      : lineOf("replace", draft.base, mask, { prompts });
    this.act(isNew ? "draw" : "mend", [line], isNew ? [] : [line.mask_id]);
  }

  maskOf(bitmap) {
    return new DrawnMask(this.image.width, this.image.height, toRuns(bitmap));
  }

  bitmapOf(id) {
    return fromSpans(this.stack.spans[this.stack.numbers.get(id)], this.stack.top.length);
  }

  /** Say that all that is shown is right and nothing is missing; what is not shown goes. Then the next image. */
  async finish() {
    if (this.draft) return this.say("Keep the draft (Enter) or let it go (Esc) first.");
    const hidden = this.image.present().filter((mask) => !this.isVisible(mask));
    this.act("done", [...hidden.map(({ id }) => ({ operation: "delete", mask_id: id })), { operation: "accept", mask_id: null }]);
    await this.go();
  }

  /** Go to the next image, once all is saved. */
  async go() {
    await this.image.saved();
    const { image_id: next } = await nextImage(this.settings, this.image.image_id, this.signal);
    location.hash = next === null ? "#/annotate" : `#/annotate/${next}`;
  }

  async reload(why) {
    const image = await AnnotatedImage.open(this.image.image_id, this.settings.by, this.signal);
    Object.assign(this, { image, draft: undefined, selected: [] });
    this.stack = this.newStack();
    this.hear();
    this.canvas.repaint();
    this.say(why ?? undefined);
  }

  // ---- choosing ----

  select(ids) {
    this.selected = ids.filter((id) => !this.image.masks.get(id)?.gone);
    this.panel.show();
    this.canvas.stage.redraw();
  }

  choose(at, adds) {
    const stacked = this.stack.stackedAt(...at.map(Math.round)).map((number) => this.stack.masks[number].id);
    const [last] = this.selected.slice(-1);
    const next = stacked[(stacked.indexOf(last) + 1) % stacked.length];
    if (next === undefined) this.select(adds ? this.selected : []);
    else if (!adds) this.select([next]);
    else this.select(this.selected.includes(next) ? this.selected.filter((id) => id !== next) : [...this.selected, next]);
  }

  /** Choose the next mask that nobody has judged, the least stable first. */
  advance(back = false) {
    const open = this.stack.shown.map((number) => this.stack.masks[number]).filter((mask) => !mask.accepted);
    open.sort((a, b) => a.stability_score - b.stability_score || a.area - b.area);
    if (back) open.reverse();
    const place = open.findIndex((mask) => mask.id === this.selected[0]);
    const next = open[(place + 1) % open.length];
    this.select(next ? [next.id] : []);
    if (!next && this.settings.stage === "review") this.say("All masks are judged. d: none is missing, and on to the next image.");
  }

  // ---- drafts ----

  use(tool) {
    this.tool = tool;
    this.panel.show();
    this.canvas.stage.redraw();
  }

  /** Return what is being drawn; begun anew, from the chosen mask if there is one. */
  begun() {
    if (!this.draft) {
      const [base] = this.selected;
      this.draft = new Draft(this.image, base ?? null, base === undefined ? null : this.bitmapOf(base));
    }
    return this.draft;
  }

  changeDraft(change) {
    if (change(this.draft) === false) this.draft = undefined;
    this.panel.show();
    this.canvas.stage.redraw();
  }

  async prompt(change) {
    if (!this.session) return this.say("The model is not ready yet; brush (b) and eraser (e) are.");
    if (!this.draft) {
      this.select([]);
      this.draft = new Draft(this.image, null, null);
    }
    const { draft } = this;
    try {
      await draft.prompt(this.session, change);
    } catch (error) {
      return this.say(error.message);
    }
    if (draft === this.draft) this.changeDraft(() => {});
  }

  cancel() {
    if (this.draft) this.changeDraft(() => false);
    else this.select([]);
  }

  // ---- words and changes ----

  /** Show words until the next thing is done. */
  say(words) {
    this.words = words;
    this.panel.show();
  }

  hear() {
    const { image, signal } = this;
    image.addEventListener("change", ({ detail: ids }) => {
      let box = null;
      for (const id of ids) {
        const changed = this.stack.put(image.masks.get(id));
        if (ids.length === 1) box = changed;
      }
      this.select(this.selected);
      this.canvas.repaint(ids.length === 1 && box ? box : undefined);
    }, { signal });
    image.addEventListener("saving", ({ detail }) => this.panel.showSaving(detail), { signal });
    image.addEventListener("reload", ({ detail }) => this.reload(detail), { signal });
  }

  stroke(from, to, isFirst) {
    this.begun().stroke(from, to, this.brush, this.tool === "brush" ? 1 : 0, isFirst);
  }
}

/** Return a line that draws a mask; `drawn` is what this page knows of it besides, and is not said. */
function lineOf(operation, id, mask, more) {
  const { box, area } = mask;
  const drawn = { area, bbox: [box.left, box.top, box.width - 1, box.height - 1] };
  const known = Object.fromEntries(Object.entries(more).filter(([, value]) => value !== null));
  return { operation, mask_id: id, segmentation: mask.toRle(), drawn, ...known };
}
