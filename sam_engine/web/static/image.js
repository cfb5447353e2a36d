// One image: its masks over it, picked by pointer, filtered by sliders, looked at one by one.
import { ask, count, download, element } from "./dom.js";
import { COLOURS, MaskStack } from "./masks.js";

const SLIDERS = {
  area: { label: "area, min %", max: 100, step: 0.1, of: (mask, pixels) => (100 * mask.area) / pixels, exponent: 3 },
  predicted_iou: { label: "predicted IoU", max: 1.1, step: 0.005, of: (mask) => mask.predicted_iou, exponent: 1 },
  stability_score: { label: "stability", max: 1, step: 0.005, of: (mask) => mask.stability_score, exponent: 1 },
};
const SWITCHES = {
  fill: ["fill", "f", true], outlines: ["outlines", "l", true], boxes: ["boxes", "b", false],
  points: ["prompts", "p", false], uncovered: ["uncovered", "u", false], beside: ["original beside", "o", false],
};
const HELP = "drag to move, wheel to zoom, 0 to fit; click to pin, Tab for the next mask under it; ← → images; Esc to let go";

export async function showImage(page, imageId, parameters, signal) {
  const image = await ask(`/api/images/${imageId}`, signal);
  if (signal.aborted) return;
  const view = new ImageView(image, signal);
  page.replaceChildren(view.root);
  view.fit();
  const wanted = Number(parameters.get("mask") ?? NaN);
  const number = image.masks.findIndex((mask) => mask.id === wanted);
  if (number >= 0) view.pin(number);
  if (image.width) await view.loadPixels();
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
    this.outlines = new Map();
    this.cuts = new Map();
    this.overlay = element("canvas", { width: this.width, height: this.height });
    this.overlayImage = new ImageData(this.width, this.height);
    this.canvas = element("canvas");
    this.tip = element("div", { class: "tip", id: "tip" }, HELP);
    this.stage = element("div", { class: "stage" }, this.canvas, this.tip);
    this.root = element("div", { class: "workspace" }, this.stage, this.sidebar());
    this.listen();
    this.repaint();
    performance.measure("masks decoded", "image-start");
  }

  async loadPixels() {
    const picture = new Image();
    picture.src = `/api/images/${this.image.image_id}/pixels.jpg`;
    try {
      await picture.decode();
      this.picture = picture;
    } catch {
      this.tip.textContent = "the image itself cannot be had: masks alone";
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
        oninput: () => {
          const { exponent } = SLIDERS[name];
          this.limits[name] = max * (input.value / max) ** exponent; // small things are many: finer there
          output.textContent = this.limits[name].toFixed(max > 10 ? 2 : 3);
          this.refilter();
        },
      });
      return element("div", { class: "row" }, element("span", { class: "label" }, label), input, output);
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
    const heading = (text, key) => element("th", { onclick: () => this.sortRows(key) }, text);
    return element(
      "div", { class: "side" },
      element("div", {},
        element("h1", {}, image.file_name),
        element("p", { class: "dim" }, image.status === "ok" || image.status === "ok_empty"
          ? `${this.width} × ${this.height} · image ${image.image_id}` : `${image.status}: ${image.error ?? ""}`),
        ...(image.width ? [element("p", {}, element("a", { href: `#/segment/images/${image.image_id}` }, "Segment: click for masks"))] : []),
        this.summary),
      element("div", {}, ...Object.entries(SLIDERS).map(([name, slide]) => slider(name, slide)),
        element("div", { class: "row" }, element("span", { class: "label" }, "opacity"), opacity),
        element("div", { class: "row" }, element("span", { class: "label" }, "colour by"), element(
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
    this.stack.paint(this.overlayImage, { colour: this.colour, ...this.options });
    this.overlay.getContext("2d").putImageData(this.overlayImage, 0, 0);
    const uncovered = (100 * this.stack.uncovered()).toFixed(1);
    this.summary.textContent =
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

  draw() {
    if (this.waiting || this.scale === undefined) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { canvas, stage, scale } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [stage.clientWidth * ratio, stage.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.style.width = `${stage.clientWidth}px`;
    canvas.style.height = `${stage.clientHeight}px`;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#06090c";
    context.fillRect(0, 0, width, height);
    const toImage = (shift) => context.setTransform(
      scale * ratio, 0, 0, scale * ratio, (this.left + shift * this.width * scale) * ratio, this.top * ratio);
    context.imageSmoothingEnabled = scale < 2;
    toImage(0);
    this.drawPicture(context);
    context.globalAlpha = this.opacity;
    context.drawImage(this.overlay, 0, 0);
    context.globalAlpha = 1;
    if (this.options.beside) {
      toImage(1);
      this.drawPicture(context);
      toImage(0);
    }
    if (this.options.boxes) this.drawBoxes(context);
    if (this.pinned >= 0) this.drawMask(context, this.pinned, [255, 255, 255, 120], "#fff");
    if (this.hovered >= 0 && this.hovered !== this.pinned) this.drawMask(context, this.hovered, [255, 230, 120, 90], "#ffe678");
    if (this.options.points) this.drawPoints(context);
    if (this.moved !== undefined) {
      performance.measure("pointer to outline", { start: this.moved, end: performance.now() });
      this.moved = undefined;
    }
  }

  drawPicture(context) {
    if (this.picture) context.drawImage(this.picture, 0, 0, this.width, this.height);
    else {
      context.fillStyle = "#39434d";
      context.fillRect(0, 0, this.width, this.height);
    }
  }

  drawMask(context, number, rgba, stroke) {
    const key = `${number} ${rgba}`;
    if (!this.cuts.has(key)) {
      const image = this.stack.cut(number, rgba);
      const picture = element("canvas", { width: image.width, height: image.height });
      picture.getContext("2d").putImageData(image, 0, 0);
      if (this.cuts.size > 64) this.cuts.clear();
      this.cuts.set(key, picture);
    }
    const { left, top } = this.stack.box(number);
    context.drawImage(this.cuts.get(key), left, top);
    if (!this.outlines.has(number)) this.outlines.set(number, this.stack.outline(number));
    context.strokeStyle = stroke;
    context.lineWidth = 2 / this.scale;
    context.stroke(this.outlines.get(number));
  }

  drawBoxes(context) {
    context.lineWidth = 1 / this.scale;
    context.strokeStyle = "#ffffffb0";
    for (const number of this.stack.shown) {
      const { left, top, width, height } = this.stack.box(number);
      context.strokeRect(left, top, width, height);
    }
  }

  drawPoints(context) {
    const numbers = this.pinned >= 0 ? [this.pinned] : this.stack.shown;
    const radius = 3.5 / this.scale;
    context.lineWidth = 1.2 / this.scale;
    for (const number of numbers) {
      for (const [x, y] of this.image.masks[number].point_coords) {
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.fillStyle = "#7dff9b";
        context.strokeStyle = "#000";
        context.fill();
        context.stroke();
      }
    }
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
    this.draw();
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
    this.draw();
  }

  /** Pin the next smallest of the masks under the last click. */
  cycle() {
    const stacked = this.clicked ? this.stack.stackedAt(...this.clicked) : [];
    if (stacked.length) this.pin(stacked[(stacked.indexOf(this.pinned) + 1) % stacked.length]);
  }

  about(mask, number) {
    const name = `${String(this.image.image_id).padStart(9, "0")}-${mask.id}`;
    const button = (text, onclick) => element("button", { onclick }, text);
    return [
      element("p", { id: "mask-info" }, describe(mask, this.width * this.height)),
      element("div", { class: "row" },
        button("mask PNG", () => this.save(number, false, `${name}-mask.png`)),
        button("cut-out PNG", () => this.save(number, true, `${name}-cut.png`)),
        button("RLE", () => download(new Blob([JSON.stringify(mask)], { type: "application/json" }), `${name}.json`)),
        button("next under it", () => this.cycle())),
    ];
  }

  /** Download a mask in white on black, or its pixels of the image on nothing. */
  save(number, cutOut, name) {
    const { left, top, width, height } = cutOut
      ? this.stack.box(number) : { left: 0, top: 0, width: this.width, height: this.height };
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    const mask = element("canvas", { width: this.stack.box(number).width, height: this.stack.box(number).height });
    mask.getContext("2d").putImageData(this.stack.cut(number, [255, 255, 255, 255]), 0, 0);
    const box = this.stack.box(number);
    if (!cutOut) context.fillRect(0, 0, width, height);
    context.drawImage(mask, box.left - left, box.top - top);
    if (cutOut) {
      context.globalCompositeOperation = "source-in";
      if (this.picture) context.drawImage(this.picture, -left, -top, this.width, this.height);
    }
    canvas.toBlob((blob) => download(blob, name), "image/png");
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
      this.moved = event.timeStamp;
      this.hover(this.stack.at(...this.pixelAt(event)));
    });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = { moved: 0 };
    });
    canvas.addEventListener("pointerup", (event) => {
      const wasDragged = this.drag && this.drag.moved > 4;
      this.drag = undefined;
      if (wasDragged) return;
      this.clicked = this.pixelAt(event);
      const stacked = this.stack.stackedAt(...this.clicked);
      if (stacked.includes(this.pinned)) this.cycle();
      else this.pin(stacked[0] ?? -1);
    });
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const factor = Math.exp(-event.deltaY / 400);
      const box = this.stage.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const scale = Math.min(64, Math.max(0.02, this.scale * factor));
      this.left = x - ((x - this.left) * scale) / this.scale;
      this.top = y - ((y - this.top) * scale) / this.scale;
      this.scale = scale;
      this.draw();
    }, { passive: false });
    addEventListener("resize", () => this.fit(), { signal });
    addEventListener("keydown", (event) => this.key(event), { signal });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select")) return;
    const named = Object.entries(SWITCHES).find(([, [, key]]) => key === event.key);
    if (named) {
      this.root.querySelector(`input[name=${named[0]}]`).click();
      if (named[0] === "beside") this.fit();
    } else if (event.key === "Tab" && this.clicked) this.cycle();
    else if (event.key === "Escape") this.pin(-1);
    else if (event.key === "0") this.fit();
    else if (event.key === "ArrowRight") location.hash = `#/image/${this.image.image_id + 1}`;
    else if (event.key === "ArrowLeft" && this.image.image_id > 0) location.hash = `#/image/${this.image.image_id - 1}`;
    else return;
    event.preventDefault();
  }
}

function describe(mask, pixels) {
  const share = ((100 * mask.area) / pixels).toFixed(2);
  const label = mask.label ? `${mask.label} · ` : "";
  return `${label}mask ${mask.id} · ${count(mask.area)} px (${share} %) · predicted IoU ${mask.predicted_iou.toFixed(3)}` +
    ` · stability ${mask.stability_score.toFixed(3)}`;
}
