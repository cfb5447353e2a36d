// One image as people leave it: acts are shown at once, said to the server one after another, and can be undone.
//
// An act is a list of lines, as in the log of corrections. It has an id of its own, so that it can be said again when
// its answer was lost; it is "saved" when the server has answered. Events: "change" (detail: ids of masks), "saving"
// (how many acts wait, and why), "reload" (detail: why; what is shown is not what is there).
import { ask } from "./dom.js";

const AGAIN_MS = 2000; // between two tries to say what could not be said

export class AnnotatedImage extends EventTarget {
  static async open(imageId, by, signal) {
    return new AnnotatedImage(await ask(`/api/annotate/images/${imageId}?by=${encodeURIComponent(by)}`, signal), by, signal);
  }

  constructor(answer, by, signal) {
    super();
    Object.assign(this, { ...answer, by, signal });
    this.masks = new Map(answer.masks.map((mask) => [mask.id, mask]));
    this.done = [];
    this.undone = [];
    this.waiting = [];
  }

  get canUndo() {
    return this.done.length > 0 || this.undo !== null;
  }

  get canRedo() {
    return this.undone.length > 0 || this.redo !== null;
  }

  /** Return the masks that are there. */
  present() {
    return [...this.masks.values()].filter((mask) => !mask.gone);
  }

  /** Do something in one go: `lines` as in the log. `about` says kind, stage and time_s. */
  act(lines, about) {
    const act = { id: newId(), lines, about, before: new Map(), wasExhaustive: this.exhaustive };
    this.applyLines(act);
    this.done.push(act);
    this.undone = [];
    this.redo = null;
    this.say(act.id, lines, about);
    return act;
  }

  /** Take back the last act, also one of an earlier visit. */
  undoLast(about) {
    const act = this.done.pop();
    if (act) {
      act.after = new Map([...act.before.keys()].map((id) => [id, this.masks.get(id)]));
      for (const [id, mask] of act.before) this.masks.set(id, mask ?? { ...this.masks.get(id), gone: true });
      [this.exhaustive, act.isExhaustive] = [act.wasExhaustive, this.exhaustive];
      this.undone.push(act);
      this.changed([...act.before.keys()]);
      this.say(act.id, [{ operation: "undo" }], about);
    } else if (this.undo !== null) this.sayAndReload(this.undo, "undo", about);
  }

  /** Do again what was undone last. */
  redoLast(about) {
    const act = this.undone.pop();
    if (act) {
      for (const [id, mask] of act.after) this.masks.set(id, mask);
      this.exhaustive = act.isExhaustive;
      this.done.push(act);
      this.changed([...act.after.keys()]);
      this.say(act.id, [{ operation: "redo" }], about);
    } else if (this.redo !== null) this.sayAndReload(this.redo, "redo", about);
  }

  applyLines(act) {
    for (const line of act.lines) {
      const ids = line.mask_id === null ? this.present().map(({ id }) => id) : [line.mask_id];
      for (const id of ids) {
        const mask = this.masks.get(id);
        if (!act.before.has(id)) act.before.set(id, mask);
        this.masks.set(id, after(mask, line));
      }
      if (line.mask_id === null) this.exhaustive = true;
    }
    this.changed([...act.before.keys()]);
  }

  changed(ids) {
    this.dispatchEvent(new CustomEvent("change", { detail: ids }));
  }

  // ---- saying it ----

  async sayAndReload(id, operation, about) {
    await this.say(id, [{ operation }], about);
    this.dispatchEvent(new CustomEvent("reload", { detail: null }));
  }

  /** Send an act when those before it are there; resolves when it is there. */
  say(id, lines, about) {
    let resolve;
    const there = new Promise((done) => { resolve = done; });
    this.waiting.push({ id, lines, about, resolve, there });
    this.tellSaving();
    if (this.waiting.length === 1) this.sendFirst();
    return there;
  }

  /** Resolves when all acts are there. */
  async saved() {
    while (this.waiting.length) await this.waiting.at(-1).there;
  }

  async sendFirst() {
    const { id, lines, about, resolve } = this.waiting[0];
    const sent = lines.map(({ drawn, ...line }) => line);
    let answer, status;
    try {
      const response = await fetch(`/api/annotate/images/${this.image_id}/acts`, {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ by: this.by, seen: this.revision, act: id, lines: sent, ...about }),
      });
      status = response.status;
      answer = await response.json();
    } catch (error) {
      answer = { error: "the server does not answer" };
    }
    if (status === 200) {
      this.waiting.shift();
      Object.assign(this, { revision: answer.revision });
      if (!this.waiting.length) {
        this.undo = this.done.length ? null : answer.undo;
        this.redo = this.undone.length ? null : answer.redo;
      }
      resolve();
      this.tellSaving();
      if (this.waiting.length) this.sendFirst();
    } else if (status >= 400 && status < 500) {
      for (const each of this.waiting.splice(0)) each.resolve(); // the others rest on what is not so
      this.tellSaving();
      this.dispatchEvent(new CustomEvent("reload", { detail: answer.error }));
    } else {
      this.tellSaving(answer.error);
      setTimeout(() => this.sendFirst(), AGAIN_MS);
    }
  }

  tellSaving(problem) {
    this.dispatchEvent(new CustomEvent("saving", { detail: { count: this.waiting.length, problem } }));
  }
}

/** Return a mask as a line leaves it. */
function after(mask, line) {
  switch (line.operation) {
    case "delete": return { ...mask, gone: true };
    case "label": return { ...mask, label: line.label ?? null };
    case "accept": return { ...mask, accepted: true, gone: false };
    default: return {
      predicted_iou: 1, stability_score: 1, point_coords: [], ...(mask ?? {}), ...line.drawn,
      id: line.mask_id, segmentation: line.segmentation, label: line.label ?? mask?.label ?? null, accepted: true, gone: false,
    };
  }
}

/** Return 16 hexadecimal digits that nobody else has. */
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
