// The column beside the image: how it works, which tool, which candidate, what is kept.
import { count, download, element } from "./dom.js";

const MODES = {
  include: ["Include", "i", "a click is a point of the thing"],
  exclude: ["Leave out", "x", "a click is a point beside the thing; so is a right click at any time"],
  box: ["Box", "b", "drag a box around the thing"],
  move: ["Move", "m", "drag the image"],
};
const THUMBNAIL = 84; // pixels of a side

/** Return what is shown while there is no image. `take` gets a file. */
export function dropZone(session, take) {
  const input = element("input", {
    type: "file", accept: "image/*", class: "hidden", id: "file",
    onchange: (event) => { if (event.target.files.length) take(event.target.files[0]); },
  });
  const pixels = Math.round(session.about.max_upload_pixels / 1e6);
  return element(
    "div", { class: "dropzone" },
    element("h1", {}, "Cut anything out of a photo"),
    element("p", {}, "Drop a photo here, or paste one."),
    element("p", {}, element("button", { class: "primary", onclick: () => input.click() }, "Choose a photo…"), input),
    element("p", { class: "dim" }, "Or open one of the ", element("a", { href: "#/" }, "dataset's images"), " and press “Segment”."),
    element("p", { class: "dim" }, `Photos stay on this machine, and are forgotten when the viewer ends. Up to ${pixels} million pixels.`),
  );
}

export class SegmentPanel {
  constructor(workspace) {
    this.workspace = workspace;
    const { session } = workspace;
    const button = (text, key, onclick, more = {}) =>
      element("button", { onclick, title: `key ${key}`, ...more }, `${text} `, element("kbd", {}, key));
    this.title = element("h1", {}, "…");
    this.about = element("p", { class: "dim" });
    this.neighbours = element("div", { class: "row neighbours" });
    this.how = element(
      "details", { open: true, id: "how" }, element("summary", {}, "How it works"),
      element("ul", {},
        element("li", {}, "Click on a thing: its mask appears. Three readings are offered when a click could mean a part or the whole."),
        element("li", {}, "Too much? Right-click (or “Leave out”) what does not belong. Too little? Click what is missing."),
        element("li", {}, "Or drag a box around it. The wheel zooms."),
        element("li", {}, "Enter keeps the cut-out; download it below."),
        element("li", {}, "By keyboard: Tab to the image, arrow keys move a cross, Space clicks.")));
    this.modes = element("fieldset", { class: "modes" }, element("legend", {}, "A click is to"),
      ...Object.entries(MODES).map(([mode, [text, key, title]]) => element(
        "label", { title: `${title} (key ${key})` },
        element("input", {
          type: "radio", name: "mode", value: mode, checked: mode === workspace.mode,
          onchange: () => { workspace.mode = mode; },
        }), ` ${text} `, element("kbd", {}, key))));
    this.hovers = element("label", { title: "key h" }, element("input", {
      type: "checkbox", name: "hovers", checked: true,
      onchange: (event) => { workspace.hovers = event.target.checked; workspace.unhover(); },
    }), " preview under the pointer ", element("kbd", {}, "h"));
    this.candidates = element("div", { class: "candidates", role: "group", "aria-label": "candidates" });
    this.undo = button("Undo", "z", () => workspace.undo());
    this.redo = button("Redo", "y", () => workspace.redo());
    this.clear = button("Clear", "Esc", () => workspace.clear());
    this.keep = button("Keep", "Enter", () => workspace.keep(), { class: "primary" });
    this.kept = element("div", { class: "list kept" });
    this.time = element("p", { id: "timing" });
    this.decoding = element("p", { id: "decoding" });
    this.root = element(
      "div", { class: "side" },
      element("div", {}, this.title, this.about, this.neighbours),
      element("div", {}, this.how),
      element("div", {}, this.modes,
        element("div", { class: "row" }, this.hovers,
          button("Everything", "e", () => workspace.findEverything(), { title: "find all masks of the image (key e)" }))),
      element("div", {}, this.candidates,
        element("div", { class: "row" }, this.keep, this.undo, this.redo, this.clear)),
      element("div", { class: "figures" }, this.time, this.decoding),
      this.kept,
    );
    this.showDecoding(session.decoding);
  }

  /** Use a key that stands for a mode or a switch; return whether it does. */
  key(named) {
    const mode = Object.keys(MODES).find((name) => MODES[name][1] === named);
    if (mode) this.modes.querySelector(`[value=${mode}]`).click();
    else if (named === "h") this.hovers.querySelector("input").click();
    return mode !== undefined || named === "h";
  }

  showImage({ ref, name, width, height, encodeMs, previous, next }) {
    this.title.textContent = name || "pasted image";
    this.about.textContent = `${width} × ${height} · encoded in ${(encodeMs / 1000).toFixed(1)} s`;
    const id = /^images\/(\d+)$/.exec(ref);
    const link = (other, text) => (other ? [element("a", { href: `#/segment/${other}` }, text)] : []);
    this.neighbours.replaceChildren(
      ...link(previous, "← previous"), ...link(next, "next →"),
      id ? element("a", { href: `#/image/${id[1]}` }, "its masks in the dataset") : element("a", { href: "#/segment" }, "another photo"));
  }

  showTime({ ms, by }) {
    const { threads } = this.workspace.session.decoding;
    const where = by === "browser" ? `in this browser, ${threads} ${threads === 1 ? "thread" : "threads"}` : "on the server";
    this.time.textContent = `${ms.toFixed(0)} ms for the last prompt, ${where}`;
  }

  showDecoding() {
    const { decoding: { by, why }, about: { model } } = this.workspace.session;
    const weights = model.is_random ? "random weights: masks mean nothing" : model.checkpoint;
    this.decoding.className = by === "server" ? "warning" : "dim";
    this.decoding.textContent = by === "server"
      ? `Masks are decoded by the server: ${why}. Model: ${model.name}.` : `Masks are decoded in this browser. Model: ${model.name} (${weights}).`;
  }

  /** Show the state of the prompt and what is kept. */
  show() {
    const { workspace } = this;
    const { state, steps } = workspace;
    this.undo.disabled = !steps.canUndo;
    this.redo.disabled = !steps.canRedo;
    this.clear.disabled = workspace.isEmpty && !workspace.everything;
    this.keep.disabled = !workspace.mask?.box;
    const candidates = state.candidates.map((candidate, number) => this.candidate(candidate, number));
    this.candidates.replaceChildren(...(candidates.length ? candidates
      : [element("p", { class: "dim" }, "What a click could mean is shown here, to choose from.")]));
    this.kept.replaceChildren(...workspace.kept.map((kept, place) => this.keptRow(kept, place)));
    if (workspace.kept.length > 1) {
      this.kept.append(element("div", { class: "row padded" }, element("button", { onclick: () => this.downloadAll() }, "Download all as JSON")));
    }
  }

  candidate({ score, mask }, number) {
    const { workspace } = this;
    const share = ((100 * mask.area) / (mask.width * mask.height)).toFixed(1);
    return element(
      "button", {
        class: "candidate", "aria-pressed": String(number === workspace.state.chosen), onclick: () => workspace.choose(number),
        "aria-label": `candidate ${number + 1}, score ${score.toFixed(2)}, ${share} % of the image`, title: `key ${number + 1}`,
      },
      this.thumbnail(mask), element("span", {}, element("kbd", {}, String(number + 1)), ` ${score.toFixed(2)}`));
  }

  thumbnail(mask) {
    const scale = THUMBNAIL / Math.max(mask.width, mask.height);
    const canvas = element("canvas", { width: Math.max(1, Math.round(mask.width * scale)), height: Math.max(1, Math.round(mask.height * scale)) });
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.globalAlpha = 0.3;
    if (this.workspace.picture) context.drawImage(this.workspace.picture, 0, 0, mask.width, mask.height);
    context.globalAlpha = 1;
    if (mask.box && this.workspace.picture) context.drawImage(mask.cutOut(this.workspace.picture), mask.box.left, mask.box.top);
    return canvas;
  }

  keptRow({ mask, score }, place) {
    const name = `${this.title.textContent.replace(/\.[^.]*$/, "")}-${place + 1}`;
    const save = (canvas, kind) => canvas.toBlob((blob) => download(blob, `${name}-${kind}.png`), "image/png");
    const button = (text, onclick, label) => element("button", { onclick, "aria-label": label }, text);
    return element(
      "div", { class: "keptrow" }, this.thumbnail(mask),
      element("div", {},
        element("p", { class: "dim" }, `cut-out ${place + 1} · ${count(mask.area)} px · ${score.toFixed(2)}`),
        element("div", { class: "row" },
          button("cut-out", () => save(mask.cutOut(this.workspace.picture), "cut"), `download cut-out ${place + 1} as PNG`),
          button("mask", () => save(mask.whole(), "mask"), `download mask ${place + 1} as PNG`),
          button("✕", () => this.workspace.forget(place), `forget cut-out ${place + 1}`))));
  }

  /** Download all kept masks with their prompts, in SA-1B's fields. */
  downloadAll() {
    const { image, kept } = this.workspace;
    const annotations = kept.map(({ mask, score, points, labels, box }) => ({
      segmentation: mask.toRle(), area: mask.area, bbox: [mask.box.left, mask.box.top, mask.box.width - 1, mask.box.height - 1],
      predicted_iou: score, point_coords: points, point_labels: labels, box,
    }));
    const document = { image: { file_name: image.name, width: image.width, height: image.height }, annotations };
    download(new Blob([JSON.stringify(document)], { type: "application/json" }), `${image.name || "masks"}.json`);
  }
}
