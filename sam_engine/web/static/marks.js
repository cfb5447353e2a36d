// What is drawn of masks besides their pixels, and said of them.
import { count } from "./dom.js";

/** Draw the boxes of all shown masks, thin at any scale: `context` is in pixels of the image. */
export function drawBoxes(context, stack) {
  context.lineWidth = 1 / context.getTransform().a;
  context.strokeStyle = "#ffffffb0";
  for (const number of stack.shown) {
    const { left, top, width, height } = stack.box(number);
    context.strokeRect(left, top, width, height);
  }
}

/** Draw the points that masks were prompted with; `scale` is of the page's pixels to the image's. */
export function drawPoints(context, masks, scale) {
  const radius = 3.5 / scale;
  context.lineWidth = 1.2 / scale;
  context.fillStyle = "#7dff9b";
  context.strokeStyle = "#000";
  for (const [x, y] of masks.flatMap((mask) => mask.point_coords)) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}

/** Return a mask in words; `pixels` are those of its image. */
export function describe(mask, pixels) {
  const share = ((100 * mask.area) / pixels).toFixed(2);
  const label = mask.label ? `${mask.label} · ` : "";
  return `${label}mask ${mask.id} · ${count(mask.area)} px (${share} %) · predicted IoU ${mask.predicted_iou.toFixed(3)}` +
    ` · stability ${mask.stability_score.toFixed(3)}`;
}
