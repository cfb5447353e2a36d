// One image: its masks over it, picked by pointer, filtered by sliders, looked at one by one.
import { ask, count, download, element } from "./dom.js";
import { highlight } from "./highlight.js";
import { SLIDERS, SWITCHES } from "./image_controls.js";
import { describe, drawBoxes, drawPoints } from "./marks.js";
import { COLOURS, MaskStack, packed } from "./masks.js";
import { cutOut, maskPicture, save } from "./take_away.js";

const PINNED = { fill: packed([255, 255, 255], 120), edge: packed([255, 255, 255], 255) };
const HOVERED = { fill: packed([255, 230, 120], 90), edge: packed([255, 230, 120], 255) };
const HELP =
  "drag to move, wheel or + - to zoom, 0 to fit; click to pin, n for the next mask under it, ↑ ↓ masks, Esc to let go; ← → images";
const MAX_OVERLAY = { side: 8192, pixels: 2 ** 25 }; // of a canvas that tabs can hold: of larger images, every so manieth pixel

export async function showImage(page, imageId, parameters, signal) {
  const image = await ask(`/api/images/${imageId}`, signal);
  if (signal.aborted) return;
  document.title = image.file_name;
  const view = new ImageView(image, signal);
  page.replaceChildren(view.root);
  view.fit();
  const wanted = Number(parameters.get("mask") ?? NaN);
  const number = image.masks.findIndex((mask) => mask.id === wanted);
  if (number >= 0) view.pin(number);
  if (image.width && !view.failed) await view.loadPixels();
}

class ImageView {
  constructor(image, signal) {
    performance.mark("image-start");
    this.image = image;
    this.signal = signal;
    this.width = image.width ?? 1;
    this.height = image.height ?? 1;
    this.stack = new MaskStack(this.width, this.height, image.masks);
    this.hovered = -1;
    this.pinned = -1;
    this.limits = Object.fromEntries(Object.keys(SLIDERS).map((name) => [name, 0]));
    this.options = Object.fromEntries(Object.entries(SWITCHES).map(([name, [, , start]]) => [name, start]));
    this.colour = "mask";
    this.opacity = 1;
    this.timed = new Map();
    this.layers = [element("canvas", { width: 1, height: 1 }), element("canvas", { width: 1, height: 1 })];
    this.failed = image.status !== "ok" && image.status !== "ok_empty";
    this.step = Math.max(
      1, Math.ceil(Math.max(this.width, this.height) / MAX_OVERLAY.side),
      Math.ceil(Math.sqrt((this.width * this.height) / MAX_OVERLAY.pixels)));
    this.overlayImage = new ImageData(Math.ceil(this.width / this.step), Math.ceil(this.height / this.step));
    this.overlay = element("canvas", { width: this.overlayImage.width, height: this.overlayImage.height });
    this.base = element("canvas"); // picture and masks: drawn anew when the view changes
    this.canvas = element("canvas", { role: "img", "aria-label": `${image.file_name}, ${image.masks.length} masks` }); // what is hovered and pinned, over it
    this.tip = element("div", { class: "tip", id: "tip", "aria-live": "polite" }, this.failed ? "there is no image to show" : HELP);
    this.stage = element("div", { class: "stage" }, this.base, this.canvas, this.tip);
    this.root = element("div", { class: "workspace" }, this.stage, this.sidebar());
    this.listen();
    this.repaint();
    this.timed.set("masks decoded", performance.getEntriesByName("image-start").at(-1).startTime);
  }

  async loadPixels() {
    const picture = new Image();
    picture.src = `/api/images/${this.image.image_id}/pixels.jpg`;
    try {
      await picture.decode();
      this.picture = picture;
    } catch {
      const reason = await ask(picture.src, this.signal).then(() => "it cannot be shown", (error) => error.message);
      this.tip.textContent = `masks alone, for the image cannot be had: ${reason}`;
    }
    if (!this.signal.aborted) this.draw();
  }

  // ---- controls ----

  sidebar() {
    const { image } = this;
    const slider = (name, { label, max, step }) => {
      const output = element("output", {}, "0");
      const input = element("input", {
        type: "range", name, min: 0, max, step, value: 0,
        oninput: (event) => {
          this.timed.set("slider to masks", event.timeStamp);
          const { exponent } = SLIDERS[name];
          this.limits[name] = max * (input.value / max) ** exponent; // small things are many: finer there
          output.textContent = this.limits[name].toFixed(max > 10 ? 2 : 3);
          this.refilter();
        },
      });
      return element("label", { class: "row" }, element("span", { class: "label" }, label), input, output);
    };
    const toggle = ([name, [text, key, start]]) =>
      element("label", { title: `key ${key}` }, element("input", {
        type: "checkbox", name, checked: start,
        onchange: (event) => { this.options[name] = event.target.checked; this.repaint(); },
      }), ` ${text} `, element("kbd", {}, key));
    const opacity = element("input", {
      type: "range", name: "opacity", min: 0, max: 1, step: 0.05, value: 1,
      oninput: (event) => { this.opacity = Number(event.target.value); this.draw(); },
    });
    this.summary = element("p", { class: "dim", id: "summary" });
    this.chosen = element("div", { id: "chosen" });
    this.rows = image.masks.map((mask, number) => element(
      "tr", { onclick: () => this.pin(number), onmouseenter: () => this.hover(number) },
      element("td", {}, String(mask.id)), element("td", {}, count(mask.area)),
      element("td", {}, mask.predicted_iou.toFixed(3)), element("td", {}, mask.stability_score.toFixed(3)),
    ));
    this.body = element("tbody", {}, ...this.rows);
    const heading = (text, key) => element(
      "th", { scope: "col", "data-key": key }, element("button", { onclick: () => this.sortRows(key) }, text));
    const step = (text, label, by) => element("a", { href: `#/image/${image.image_id + by}`, "aria-label": label }, text);
    return element(
      "div", { class: "side" },
      element("div", {},
        element("h1", {}, image.file_name),
        element("p", { class: "steps" }, ...(image.image_id > 0 ? [step("← previous", "previous image", -1)] : []),
          step("next →", "next image", 1)),
        element("p", { class: "dim" }, !this.failed
          ? `${this.width} × ${this.height} · image ${image.image_id}` : `${image.status}: ${image.error ?? ""}`),
        ...(image.width ? [element("p", {}, element("a", { href: `#/segment/images/${image.image_id}` }, "Segment: click for masks"))] : []),
        this.summary),
      element("div", {}, ...Object.entries(SLIDERS).map(([name, slide]) => slider(name, slide)),
        element("label", { class: "row" }, element("span", { class: "label" }, "opacity"), opacity),
        element("label", { class: "row" }, element("span", { class: "label" }, "colour by"), element(
          "select", { name: "colour", onchange: (event) => { this.colour = event.target.value; this.repaint(); } },
          ...Object.keys(COLOURS).map((name) => element("option", { value: name }, name)))),
        element("div", { class: "row" }, ...Object.entries(SWITCHES).map(toggle))),
      this.chosen,
      element("div", { class: "list" }, element("table", {},
        element("thead", {}, element("tr", {}, heading("mask", "id"), heading("area", "area"),
          heading("IoU", "predicted_iou"), heading("stability", "stability_score"))), this.body)),
    );
  }

  sortRows(key) {
    const order = this.image.masks.map((_, number) => number);
    order.sort((a, b) => this.image.masks[b][key] - this.image.masks[a][key]);
    if (this.sortedBy === key) order.reverse();
    for (const each of this.root.querySelectorAll("th")) {
      if (each.dataset.key === key) each.ariaSort = this.sortedBy === key ? "ascending" : "descending";
      else each.removeAttribute("aria-sort");
    }
    this.sortedBy = this.sortedBy === key ? null : key;
    this.body.append(...order.map((number) => this.rows[number]));
  }

  refilter() {
    const pixels = this.width * this.height;
    this.stack.show((mask) =>
      Object.entries(SLIDERS).every(([name, { of }]) => this.limits[name] === 0 || of(mask, pixels) >= this.limits[name]));
    const shown = new Set(this.stack.shown);
    this.rows.forEach((row, number) => row.classList.toggle("hidden", !shown.has(number)));
    this.hovered = -1;
    this.repaint();
  }

  // ---- drawing ----

  repaint() {
    this.stack.paint(this.overlayImage, { colour: this.colour, step: this.step, ...this.options });
    this.overlay.getContext("2d").putImageData(this.overlayImage, 0, 0);
    const uncovered = (100 * this.stack.uncovered()).toFixed(1);
    this.summary.textContent = this.failed ? "" :
      `${count(this.stack.shown.length)} of ${count(this.image.masks.length)} masks · ${uncovered} % uncovered`;
    this.draw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    const across = this.options.beside ? 2 : 1;
    this.scale = Math.min(clientWidth / (this.width * across), clientHeight / this.height) || 1;
    this.left = (clientWidth - this.width * across * this.scale) / 2;
    this.top = (clientHeight - this.height * this.scale) / 2;
    this.draw();
  }

  /** Draw in the next frame: all of it, or only what is hovered and pinned. */
  draw({ marksOnly = false } = {}) {
    this.isStale ||= !marksOnly;
    if (this.waiting || this.scale === undefined) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.stage;
    const [width, height] = [clientWidth * ratio, clientHeight * ratio].map(Math.round);
    for (const canvas of [this.base, this.canvas]) {
      if (canvas.width === width && canvas.height === height) continue;
      Object.assign(canvas, { width, height });
      Object.assign(canvas.style, { width: `${clientWidth}px`, height: `${clientHeight}px` });
      this.isStale = true;
    }
    const view = { scale: this.scale * ratio, left: this.left * ratio, top: this.top * ratio, width, height };
    if (this.isStale) this.drawBase(this.base.getContext("2d"), view);
    this.isStale = false;
    this.drawMarks(this.canvas.getContext("2d"), view);
    this.afterPaint();
  }

  drawBase(context, { scale, left, top, width, height }) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#06090c";
    context.fillRect(0, 0, width, height);
    const toImage = (shift) => context.setTransform(scale, 0, 0, scale, left + shift * this.width * scale, top);
    context.imageSmoothingEnabled = this.scale < 2;
    toImage(0);
    this.drawPicture(context);
    context.globalAlpha = this.opacity;
    context.drawImage(this.overlay, 0, 0, this.step * this.overlay.width, this.step * this.overlay.height);
    context.globalAlpha = 1;
    if (this.options.beside) {
      toImage(1);
      this.drawPicture(context);
      toImage(0);
    }
    if (this.options.boxes) drawBoxes(context, this.stack);
  }

  drawMarks(context, view) {
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    if (this.pinned >= 0) this.drawMask(context, this.pinned, view, PINNED);
    if (this.hovered >= 0 && this.hovered !== this.pinned) this.drawMask(context, this.hovered, view, HOVERED);
    if (this.options.points) {
      context.setTransform(view.scale, 0, 0, view.scale, view.left, view.top);
      const numbers = this.pinned >= 0 ? [this.pinned] : this.stack.shown;
      drawPoints(context, numbers.map((number) => this.image.masks[number]), this.scale);
    }
  }

  /** Note how long it took from the events to when what they changed has been painted. */
  afterPaint() {
    if (!this.timed.size) return;
    const timed = [...this.timed];
    this.timed.clear();
    const { port1, port2 } = new MessageChannel(); // its message comes behind the frame that is being made
    port1.onmessage = () => {
      for (const [name, start] of timed) {
        performance.clearMeasures(name);
        performance.measure(name, { start, end: performance.now() });
      }
    };
    port2.postMessage(null);
  }

  drawPicture(context) {
    if (this.failed) return;
    if (this.picture) context.drawImage(this.picture, 0, 0, this.width, this.height);
    else {
      context.fillStyle = "#39434d";
      context.fillRect(0, 0, this.width, this.height);
    }
  }

  drawMask(context, number, view, colours) {
    const found = highlight(this.stack, number, view, colours);
    if (!found) return;
    const { width, height } = found.image;
    const layer = this.layers[colours === PINNED ? 0 : 1];
    if (layer.width < width || layer.height < height) Object.assign(layer, { width, height });
    layer.getContext("2d").putImageData(found.image, 0, 0);
    context.drawImage(layer, 0, 0, width, height, found.x, found.y, width, height);
  }

  // ---- picking ----

  pixelAt(event) {
    const box = this.stage.getBoundingClientRect();
    return [
      Math.floor((event.clientX - box.left - this.left) / this.scale),
      Math.floor((event.clientY - box.top - this.top) / this.scale),
    ];
  }

  hover(number) {
    if (number === this.hovered) return;
    this.hovered = number;
    this.tip.textContent = number < 0 ? HELP : describe(this.image.masks[number], this.width * this.height);
    this.draw({ marksOnly: true });
  }

  pin(number) {
    if (this.pinned >= 0) this.rows[this.pinned].classList.remove("picked");
    this.pinned = number;
    const mask = this.image.masks[number];
    const query = mask ? `?mask=${mask.id}` : "";
    history.replaceState(null, "", `#/image/${this.image.image_id}${query}`);
    this.chosen.replaceChildren(...(mask ? this.about(mask, number) : []));
    if (mask) {
      this.rows[number].classList.add("picked");
      this.rows[number].scrollIntoView({ block: "nearest" });
      this.tip.textContent = describe(mask, this.width * this.height);
    }
    this.draw({ marksOnly: true });
  }

  /** Pin the next smallest of the masks under the last click. */
  cycle() {
    const stacked = this.clicked ? this.stack.stackedAt(...this.clicked) : [];
    if (stacked.length) this.pin(stacked[(stacked.indexOf(this.pinned) + 1) % stacked.length]);
  }

  /** Pin the next or the last mask of the table that is shown. */
  walk(by) {
    const rows = [...this.body.rows].filter((row) => !row.classList.contains("hidden"));
    if (!rows.length) return;
    const here = rows.indexOf(this.rows[this.pinned]);
    const next = here < 0 ? (by > 0 ? 0 : rows.length - 1) : (here + by + rows.length) % rows.length;
    this.pin(this.rows.indexOf(rows[next]));
  }

  /** Make the image larger or smaller round a point of the stage. */
  zoom(factor, x, y) {
    const scale = Math.min(64, Math.max(0.02, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  about(mask, number) {
    const name = `${String(this.image.image_id).padStart(9, "0")}-${mask.id}`;
    const button = (text, onclick) => element("button", { onclick }, text);
    return [
      element("p", { id: "mask-info" }, describe(mask, this.width * this.height)),
      element("div", { class: "row" },
        button("mask PNG", () => save(maskPicture(this.stack, number), `${name}-mask.png`)),
        button("cut-out PNG", () => save(cutOut(this.stack, number, this.picture), `${name}-cut.png`)),
        button("RLE", () => download(new Blob([JSON.stringify(mask)], { type: "application/json" }), `${name}.json`)),
        ...(this.clicked ? [button("next under it", () => this.cycle())] : [])),
    ];
  }

  // ---- events ----

  listen() {
    const { canvas, signal } = this;
    canvas.addEventListener("pointermove", (event) => {
      if (this.drag) {
        this.left += event.movementX;
        this.top += event.movementY;
        this.drag.moved += Math.abs(event.movementX) + Math.abs(event.movementY);
        this.draw();
        return;
      }
      const number = this.stack.at(...this.pixelAt(event));
      if (number !== this.hovered) this.timed.set("pointer to outline", event.timeStamp);
      this.hover(number);
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = { moved: 0 };
    });
    canvas.addEventListener("pointerup", (event) => {
      const wasDragged = this.drag && this.drag.moved > 4;
      this.drag = undefined;
      if (wasDragged) return;
      this.timed.set("click to pinned", event.timeStamp);
      this.clicked = this.pixelAt(event);
      const stacked = this.stack.stackedAt(...this.clicked);
      if (stacked.includes(this.pinned)) this.cycle();
      else this.pin(stacked[0] ?? -1);
    });
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.stage.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    addEventListener("resize", () => this.fit(), { signal });
    addEventListener("keydown", (event) => this.key(event), { signal });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
    const middle = [this.stage.clientWidth / 2, this.stage.clientHeight / 2];
    const named = Object.entries(SWITCHES).find(([, [, key]]) => key === event.key);
    if (named) {
      this.root.querySelector(`input[name=${named[0]}]`).click();
      if (named[0] === "beside") this.fit();
    } else if (event.key === "n" && this.clicked) this.cycle();
    else if (event.key === "ArrowDown") this.walk(1);
    else if (event.key === "ArrowUp") this.walk(-1);
    else if (event.key === "+" || event.key === "=") this.zoom(1.25, ...middle);
    else if (event.key === "-") this.zoom(0.8, ...middle);
    else if (event.key === "Escape") this.pin(-1);
    else if (event.key === "0") this.fit();
    else if (event.key === "ArrowRight") location.hash = `#/image/${this.image.image_id + 1}`;
    else if (event.key === "ArrowLeft" && this.image.image_id > 0) location.hash = `#/image/${this.image.image_id - 1}`;
    else return;
    event.preventDefault();
  }
}
