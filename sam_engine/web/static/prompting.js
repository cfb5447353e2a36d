// Masks for prompts: the seam between whoever draws prompts (the page "Segment", the annotator) and the model.
//
//   const session = await PromptSession.start();
//   const image = await session.open("images/12");          // or "uploads/SHA256", from `await session.upload(file)`
//   const found = await session.predict({ points: [[x, y]], labels: [1], box: [x, y, x, y], previous: logits });
//   found.candidates[found.chosen]                           // { score, logits }; most likely to be meant
//   const mask = session.mask(found.candidates[0]);          // a DrawnMask in pixels of the image
//   session.ahead("images/13");                              // encode it on the server meanwhile
//
// All coordinates are pixels of the image. Labels are 1 for foreground and 0 for background. `points`, `labels`, `box`
// and `previous` (the `logits` of an earlier candidate, to refine) may each be left out, but not both points and box.
//
// `predict` resolves to { candidates, chosen, ms, by, image }, or to null if a newer prompt has overtaken it: only the
// latest one that waits is decoded. With `{ preview: true }` it also gives way to every prompt without. A single click
// may mean a part or the whole, and gets three candidates; any other prompt is clear, and its own answer stands before
// those three.
//
// Prompts are decoded in the browser, in a worker (`decoder_worker.js`), once that is ready; until then, and where it
// cannot run, by the server. `session.decoding` says which: { by: "browser" | "server", threads, why }, and the event
// "decoding" that it has changed. `open` and `predict` throw with words for people.
import { ask } from "./dom.js";
import { DrawnMask } from "./drawn_mask.js";
import { parseSafetensors } from "./safetensors.js";
import { Upscaler } from "./upscale.js";

const MAX_THREADS = 4; // more bring little for one prompt

export class PromptSession extends EventTarget {
  /** Return a session; `{ inBrowser: false }` leaves all decoding to the server, `threads` is of the browser's. */
  static async start({ inBrowser = true, threads = defaultThreads() } = {}) {
    const session = new PromptSession(await ask("/api/prompting"));
    if (session.about.why_no_browser) inBrowser = false;
    if (inBrowser) session.startWorker(threads);
    return session;
  }

  constructor(about) {
    super();
    this.about = about;
    this.decoding = { by: "server", why: about.why_no_browser ?? "the decoder is being loaded" };
    this.answers = new Map();
    this.lastId = 0;
    this.isBusy = false;
    this.waiting = undefined;
  }

  /** End the worker. */
  close() {
    this.worker?.terminate();
  }

  // ---- images ----

  /** Send a file to the server; return the image that `open` takes: { ref, name, width, height }. */
  async upload(file) {
    const { max_upload_bytes: limit } = this.about;
    if (file.size > limit) throw new Error(`${file.name} has ${megabytes(file.size)}; at most ${megabytes(limit)} are taken`);
    const response = await fetch(`/api/prompting/uploads?name=${encodeURIComponent(file.name)}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    return answerOf(response);
  }

  /**
   * Take an image to prompt on; it is encoded if it was not before. Return { ref, name, width, height, encodeMs,
   * previous, next }, the last two being images beside it in the dataset, or null.
   */
  async open(ref, { signal } = {}) {
    this.image = undefined;
    this.opening = ref;
    const started = performance.now();
    const [about, response] = await Promise.all([
      ask(`/api/prompting/${ref}`, signal), fetch(`/api/prompting/${ref}/embedding`, { signal }),
    ]);
    if (!response.ok) await answerOf(response);
    const { metadata, tensors } = parseSafetensors(await response.arrayBuffer());
    if (this.opening !== ref) throw new Error("another image was opened meanwhile");
    this.image = { ...about, inputSize: JSON.parse(metadata.input_size), encodeMs: performance.now() - started };
    this.tensors = tensors;
    this.upscaler = undefined;
    await this.giveToWorker();
    return this.image;
  }

  /** Have the server encode an image that comes next. */
  async ahead(ref) {
    await fetch(`/api/prompting/${ref}/ahead`, {
      method: "POST", body: "{}", headers: { "Content-Type": "application/json" },
    });
  }

  // ---- prompts ----

  /** Return what a prompt gives, or null if a newer one has overtaken it; see the head of this file. */
  predict(prompt, { preview = false } = {}) {
    return new Promise((resolve, reject) => {
      const task = { prompt, preview, image: this.image, resolve, reject };
      if (!this.isBusy) this.run(task);
      else if (preview && this.waiting && !this.waiting.preview) resolve(null);
      else {
        this.waiting?.resolve(null);
        this.waiting = task;
      }
    });
  }

  async run({ prompt, image, resolve, reject }) {
    this.isBusy = true;
    try {
      if (image === undefined || image !== this.image) resolve(null);
      else {
        const found = await (this.isReady ? this.predictHere(prompt) : this.predictThere(prompt));
        resolve(image === this.image ? found : null);
      }
    } catch (error) {
      reject(error);
    } finally {
      this.isBusy = false;
      const next = this.waiting;
      this.waiting = undefined;
      if (next) this.run(next);
    }
  }

  async predictHere(prompt) {
    const { points = [], labels = [], box, previous } = prompt;
    const { width, height, inputSize: [inputHeight, inputWidth] } = this.image;
    const toInput = ([x, y]) => [(x * inputWidth) / width, (y * inputHeight) / height];
    const corners = box ? [box.slice(0, 2), box.slice(2)] : [];
    const coords = [...points, ...corners].flatMap(toInput);
    const kinds = [...labels, ...(box ? [2, 3] : [-1])];
    if (!box) coords.push(0, 0); // a point that is none: the model was trained with one where there is no box
    const { logits, scores, ms } = await this.tell("prompt", {
      coords: new Float32Array(coords), labels: new Float32Array(kinds), mask: previous ?? null,
    });
    const all = split(logits, scores);
    return this.found(isClear(prompt) ? all : all.slice(1), prompt, ms, "browser");
  }

  async predictThere(prompt) {
    const { points = [], labels = [], box = null, previous } = prompt;
    const started = performance.now();
    const response = await fetch(`/api/prompting/${this.image.ref}/predict`, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ points, labels, box, previous: previous ? toBase64(previous) : null }),
    });
    if (!response.ok) await answerOf(response);
    const { low_res_masks: logits, iou_predictions: scores } = parseSafetensors(await response.arrayBuffer()).tensors;
    return this.found(split(logits.data, scores.data), prompt, performance.now() - started, "server");
  }

  found(candidates, prompt, ms, by) {
    const scores = candidates.map(({ score }) => score);
    const chosen = isClear(prompt) ? 0 : scores.indexOf(Math.max(...scores));
    return { candidates, chosen, ms, by, image: this.image };
  }

  /** Return a candidate as a mask of the image that is open. */
  mask({ logits }) {
    const { width, height, inputSize } = this.image;
    const { image_size: square, mask_threshold: threshold } = this.about.model;
    const side = Math.sqrt(logits.length);
    this.upscaler ??= new Upscaler({ size: [height, width], inputSize, square, side });
    return new DrawnMask(width, height, this.upscaler.runs(logits, threshold));
  }

  // ---- the worker ----

  async startWorker(threads) {
    this.worker = new Worker("/static/decoder_worker.js", { type: "module" });
    this.worker.addEventListener("message", ({ data: { id, ...answer } }) => {
      const { resolve, reject } = this.answers.get(id);
      this.answers.delete(id);
      if (answer.error) reject(new Error(answer.error));
      else resolve(answer);
    });
    this.worker.addEventListener("error", (event) => this.giveUp(event.message || "the worker does not load"));
    try {
      await this.tell("start", { numThreads: threads });
      this.hasStarted = true;
      await this.giveToWorker();
      this.say({ by: "browser", threads });
    } catch (error) {
      this.giveUp(error.message);
    }
  }

  /** Hand the embedding of the image that is open to the worker, if it has started. */
  async giveToWorker() {
    this.isReady = false;
    if (!this.hasStarted || !this.tensors) return;
    const { tensors } = this;
    await this.tell("image", { tensors });
    this.isReady = tensors === this.tensors;
  }

  tell(type, given) {
    return new Promise((resolve, reject) => {
      this.answers.set(++this.lastId, { resolve, reject });
      this.worker.postMessage({ id: this.lastId, type, ...given });
    });
  }

  /** Leave decoding to the server from now on. */
  giveUp(why) {
    this.worker.terminate();
    this.hasStarted = this.isReady = false;
    for (const { reject } of this.answers.values()) reject(new Error(why));
    this.answers.clear();
    this.say({ by: "server", why });
  }

  say(decoding) {
    this.decoding = decoding;
    this.dispatchEvent(new Event("decoding"));
  }
}

/** Return how many threads suit this machine; a page that is not isolated gets no others. */
function defaultThreads() {
  return crossOriginIsolated ? Math.max(1, Math.min(MAX_THREADS, navigator.hardwareConcurrency)) : 1;
}

/** Return whether a prompt means one mask: it is more than a click. */
function isClear({ labels = [], box, previous }) {
  return Boolean(box || previous || labels.length > 1);
}

function split(logits, scores) {
  const area = logits.length / scores.length;
  return [...scores].map((score, number) => ({ score, logits: logits.slice(number * area, (number + 1) * area) }));
}

function toBase64(floats) {
  const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

async function answerOf(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
  return answer;
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
