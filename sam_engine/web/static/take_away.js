// A mask as a file: white on black, or the pixels of the image that it covers on nothing.
import { download, element } from "./dom.js";

/** Return a canvas of the image's size: the mask in white on black. */
export function maskPicture(stack, number) {
  const canvas = element("canvas", { width: stack.width, height: stack.height });
  const context = canvas.getContext("2d");
  const { left, top } = stack.box(number);
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(alone(stack, number), left, top);
  return canvas;
}

/** Return a canvas of the mask's box with what `picture` has there; all else is transparent. */
export function cutOut(stack, number, picture) {
  const canvas = alone(stack, number);
  const { left, top } = stack.box(number);
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-in";
  if (picture) context.drawImage(picture, -left, -top, stack.width, stack.height);
  return canvas;
}

export function save(canvas, name) {
  canvas.toBlob((blob) => download(blob, name), "image/png");
}

/** Return a canvas of the mask's box: the mask in white on nothing. */
function alone(stack, number) {
  const image = stack.cut(number, [255, 255, 255, 255]);
  const canvas = element("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
