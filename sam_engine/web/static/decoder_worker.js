// The decoder in a thread of its own. One message in, one answer out, in order; `prompting.js` is its only client.
//
// { id, type: "start", numThreads, imageSize }   loads ONNX Runtime Web and both graphs
// { id, type: "image", tensors }                 takes an embedding; what all its prompts share is computed
// { id, type: "prompt", coords, labels, mask }   (x, y) in the model's frame; mask is Float32Array or null
// answers { id, ... } or { id, error }
import * as ort from "/runtime/ort.wasm.min.mjs";

const sessions = {};
let shared; // by name: what the graph of the image gave
let image; // the inputs of that graph
let maskShape;

async function start({ numThreads }) {
  ort.env.wasm.wasmPaths = "/runtime/";
  ort.env.wasm.numThreads = numThreads;
  for (const name of ["image", "prompt"]) {
    const response = await fetch(`/api/prompting/decoder/${name}.onnx`);
    if (!response.ok) throw new Error((await response.json()).error);
    sessions[name] = await ort.InferenceSession.create(await response.arrayBuffer(), {
      executionProviders: ["wasm"], graphOptimizationLevel: "all",
    });
  }
  const [mask] = sessions.image.inputMetadata.filter(({ name }) => name === "mask_input");
  maskShape = mask.shape;
  await warmUp();
  return { numThreads: ort.env.wasm.numThreads };
}

/** Run both graphs on zeros: the first runs take many times as long as those after them. */
async function warmUp() {
  image = {};
  for (const { name, shape } of sessions.image.inputMetadata) image[name] = zeros(shape);
  for (let round = 0; round < 2; round++) {
    shared = await sessions.image.run(image);
    await prompt({ coords: new Float32Array(4), labels: new Float32Array([1, -1]), mask: null });
  }
  image = shared = undefined;
}

function zeros(shape) {
  return new ort.Tensor("float32", new Float32Array(shape.reduce((product, side) => product * side, 1)), shape);
}

async function setImage({ tensors: { features, ...skips } }) {
  image = { image_embeddings: features, ...skips };
  for (const [name, { data, shape }] of Object.entries(image)) image[name] = new ort.Tensor("float32", data, shape);
  image.mask_input = zeros(maskShape);
  image.has_mask_input = zeros([1]);
  const started = performance.now();
  shared = await sessions.image.run(image);
  return { ms: performance.now() - started };
}

async function prompt({ coords, labels, mask }) {
  if (shared === undefined) throw new Error("there is no image yet");
  const started = performance.now();
  const inputs = mask === null ? { ...shared } : await sessions.image.run({
    ...image, mask_input: new ort.Tensor("float32", mask, maskShape),
    has_mask_input: new ort.Tensor("float32", new Float32Array([1]), [1]),
  });
  inputs.point_coords = new ort.Tensor("float32", coords, [1, labels.length, 2]);
  inputs.point_labels = new ort.Tensor("float32", labels, [1, labels.length]);
  const { low_res_masks: logits, iou_predictions: scores } = await sessions.prompt.run(inputs);
  return { logits: logits.data, scores: scores.data, ms: performance.now() - started };
}

const HANDLERS = { start, image: setImage, prompt };
let last = Promise.resolve();

addEventListener("message", ({ data: { id, type, ...given } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, ...(await HANDLERS[type](given)) });
    } catch (error) {
      postMessage({ id, error: String(error.message ?? error) });
    }
  });
});
