// The column beside the image: tools, acts with their keys, labels, stage, what is chosen, and whether all is saved.
import { count, element } from "./dom.js";

const TOOLS = {
  pick: ["Choose", "v", "click: the mask under the pointer, again: the next under it; Shift: several; drag: move the image"],
  prompt: ["Click", "c", "click: a point of the thing; right click: beside it; drag: a box"],
  brush: ["Brush", "b", "paint; begins from the chosen mask"],
  eraser: ["Eraser", "e", "wipe out; begins from the chosen mask"],
  knife: ["Knife", "k", "drag a line across the chosen mask"],
};
const STAGES = {
  manual: "manual: no masks but people's", semi: "semi: the confident masks are there", review: "review: all masks are there",
};
const ACTS = {
  accept: ["Accept", "a", (view) => view.accept(), "right as it stands; on to the next"],
  reject: ["Reject", "r", (view) => view.remove("reject"), "it is none; on to the next"],
  delete: ["Delete", "x", (view) => view.remove("delete"), "it is none"],
  merge: ["Merge", "m", (view) => view.merge(), "one mask of the chosen ones"],
  split: ["Split", "s", (view) => view.split(), "a mask for each piece"],
  next: ["Next unjudged", "Tab", (view) => view.advance(), "the least stable first"],
};

export class AnnotatePanel {
  constructor(view) {
    this.view = view;
    const { about, image, settings } = view;
    const button = (text, key, onclick, more = {}) =>
      element("button", { onclick, title: `key ${key}`, ...more }, `${text} `, element("kbd", {}, key));
    this.progress = element("p", { class: "dim", id: "progress" },
      `${count(about.num_exhaustive)} of ${count(about.num_images)} images are exhaustive`);
    this.by = element("input", {
      name: "by", value: settings.by, maxlength: 200, size: 12, "aria-label": "your name",
      onchange: (event) => { if (event.target.value.trim()) view.set("by", event.target.value.trim()); },
    });
    const choice = (name, options) => element(
      "select", { name, onchange: (event) => { view.set(name, event.target.value); view.canvas.canvas.focus(); } },
      ...Object.entries(options).map(([value, text]) => element("option", { value, selected: value === settings[name] }, text)));
    this.tools = element("div", { class: "row tools", role: "group", "aria-label": "tools" },
      ...Object.entries(TOOLS).map(([tool, [text, key, title]]) => button(text, key, () => view.use(tool), { title: `${title} (key ${key})`, "data-tool": tool })));
    this.size = element("output", {}, String(view.brush));
    this.candidates = element("div", { class: "row", role: "group", "aria-label": "masks that the model offers", id: "candidates" });
    this.keep = button("Keep", "Enter", () => view.commit(), { class: "primary" });
    this.drop = button("Let go", "Esc", () => view.cancel());
    this.acts = Object.fromEntries(Object.entries(ACTS).map(([name, [text, key, act, title]]) =>
      [name, button(text, key, () => act(view), { title: `${title} (key ${key})`, "data-act": name })]));
    this.label = element("input", {
      name: "label", list: "labels", maxlength: 200, size: 14, placeholder: "label", "aria-label": "label of the chosen masks", autocomplete: "off",
      onchange: (event) => this.labelled(event.target.value),
      onkeydown: (event) => { if (event.key === "Enter" || event.key === "Escape") view.canvas.canvas.focus(); },
    });
    this.undo = button("Undo", "z", () => view.undo());
    this.redo = button("Redo", "y", () => view.redo());
    this.finish = button("Done, next", "d", () => view.finish(), { class: "primary", title: "all that is shown is right, and nothing is missing (key d)" });
    this.skip = button("Skip", "n", () => view.go(), { title: "the next image, this one is not done (key n)" });
    this.chosen = element("p", { id: "chosen-mask" });
    this.summary = element("p", { class: "dim", id: "summary" });
    this.saving = element("p", { id: "saving", role: "status" }, "saved");
    this.root = element(
      "div", { class: "side" },
      element("div", {},
        element("h1", {}, image.file_name), this.summary, this.progress,
        element("div", { class: "row" }, this.by, choice("stage", STAGES)),
        element("div", { class: "row" }, "next by ", choice("order", Object.fromEntries(about.orders.map((order) => [order, order]))))),
      element("div", {}, this.tools,
        element("div", { class: "row" }, "brush ", element("kbd", {}, "["), this.size, element("kbd", {}, "]"), " pixels"),
        this.candidates, element("div", { class: "row" }, this.keep, this.drop)),
      element("div", {}, this.chosen, element("div", { class: "row" }, ...Object.values(this.acts)),
        element("div", { class: "row" }, this.label, element("kbd", {}, "l"),
          element("datalist", { id: "labels" }, ...about.labels.map((label) => element("option", { value: label }))))),
      element("div", {}, element("div", { class: "row" }, this.undo, this.redo), this.saving,
        element("div", { class: "row" }, this.finish, this.skip)),
      element("p", { class: "dim padded" }, "Wheel: zoom, 0: all of it, h: hide the masks. Orange masks nobody has judged, green ones are right."),
    );
  }

  /** Give the chosen masks a label; without any, the masks that are drawn from now on. */
  labelled(text) {
    const { view } = this;
    if (view.selected.length) view.label(text);
    else view.set("label", text.trim());
    this.view.canvas.canvas.focus();
  }

  show() {
    const { view } = this;
    const { image, draft, selected, stack } = view;
    const masks = selected.map((id) => image.masks.get(id));
    for (const tool of this.tools.children) tool.setAttribute("aria-pressed", String(tool.dataset.tool === view.tool));
    this.size.textContent = String(view.brush);
    this.keep.disabled = !draft?.mask()?.box;
    this.drop.disabled = !draft && !masks.length;
    for (const act of ["accept", "reject", "delete"]) this.acts[act].disabled = !masks.length;
    this.acts.merge.disabled = masks.length < 2;
    this.acts.split.disabled = masks.length !== 1;
    this.undo.disabled = !draft && !image.canUndo;
    this.redo.disabled = Boolean(draft) || !image.canRedo;
    this.finish.disabled = Boolean(draft);
    const open = stack.shown.filter((number) => !stack.masks[number].accepted).length;
    const hidden = image.present().length - stack.shown.length;
    this.summary.textContent = `${image.width} × ${image.height} · ${count(stack.shown.length)} masks, ${count(open)} unjudged` +
      `${hidden ? `, ${count(hidden)} not shown` : ""}${image.exhaustive ? " · exhaustive" : ""}`;
    this.chosen.textContent = masks.length === 1 ? describe(masks[0]) : masks.length ? `${masks.length} masks` : "no mask is chosen";
    if (document.activeElement !== this.label) this.label.value = masks.length ? masks[0].label ?? "" : view.settings.label;
    const { candidates = [], chosen } = draft?.state.bitmap ? {} : draft?.state.prompt ?? {};
    this.candidates.replaceChildren(...candidates.map(({ score, mask }, number) => element("button", {
      "aria-pressed": String(number === chosen), title: `key ${number + 1}`,
      onclick: () => view.changeDraft((each) => each.choose(number)),
    }, element("kbd", {}, String(number + 1)), ` ${score.toFixed(2)} · ${count(mask.area)} px`)));
    view.canvas.status.textContent = view.words ?? TOOLS[view.tool][2];
  }

  showSaving({ count: waiting, problem }) {
    this.saving.classList.toggle("problem", Boolean(problem));
    this.saving.textContent = problem ? `Not saved: ${problem}. It is said again; leave this page open.` : waiting ? "saving…" : "saved";
    this.show();
  }

  /** Do what a key stands for. */
  key(event) {
    const { view } = this;
    if (event.altKey || event.target.matches("input, select, textarea")) return;
    const key = event.key.toLowerCase();
    view.words = undefined;
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") (event.shiftKey ? view.redo() : this.timed("undo", event, () => view.undo()));
      else if (key === "y") view.redo();
      else return;
    } else if (!this.plain(key, event)) return;
    event.preventDefault();
  }

  plain(key, event) {
    const { view } = this;
    const tool = Object.keys(TOOLS).find((name) => TOOLS[name][1] === key);
    const act = Object.keys(ACTS).find((name) => ACTS[name][1] === key);
    const onButton = event.target.matches("button, a");
    if (tool) view.use(tool);
    else if (act || key === "delete" || key === "backspace") {
      const name = act ?? "delete";
      if (!this.acts[name].disabled) this.timed(name, event, () => ACTS[name][2](view));
    } else if (key === "tab" && !onButton) view.advance(event.shiftKey);
    else if (key === "z") this.timed("undo", event, () => view.undo());
    else if (key === "y") view.redo();
    else if (key === "enter" && !onButton) view.commit();
    else if (key === "escape") view.cancel();
    else if (key === "d") view.finish();
    else if (key === "n") view.go();
    else if (key === "l") this.label.focus();
    else if (key === "[" || key === "]") this.resize(key === "[" ? 0.8 : 1.25);
    else if (key === "h") this.hide();
    else if (key === "0") view.canvas.stage.fit();
    else if (key === "+" || key === "=") view.canvas.stage.zoom(1.25);
    else if (key === "-") view.canvas.stage.zoom(0.8);
    else if (/^[1-4]$/.test(key) && view.draft) view.changeDraft((draft) => draft.choose(Number(key) - 1));
    else return false;
    return true;
  }

  timed(name, event, act) {
    this.view.canvas.time(name, event);
    act();
  }

  resize(factor) {
    const { view } = this;
    view.brush = Math.max(1, Math.min(200, Math.round(view.brush * factor) + (factor > 1 ? 1 : 0)));
    this.show();
    view.canvas.stage.redraw();
  }

  hide() {
    const { canvas } = this.view;
    canvas.opacity = canvas.opacity ? 0 : 1;
    canvas.stage.redraw();
  }
}

function describe(mask) {
  const label = mask.label ? `${mask.label} · ` : "";
  return `${label}mask ${mask.id} · ${count(mask.area)} px · predicted IoU ${mask.predicted_iou.toFixed(3)} · ` +
    `stability ${mask.stability_score.toFixed(3)}${mask.accepted ? " · accepted" : ""}`;
}
