// What the masks of the dataset are like.
import { ask, count, element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Return a bar chart; an open edge is null. */
function bars(title, { edges, counts }) {
  const width = 440, height = 170, base = height - 28;
  const most = Math.max(1, ...counts);
  const chart = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const step = (width - 10) / counts.length;
  counts.forEach((number, place) => {
    const tall = (number / most) * (base - 8);
    const bar = shape("rect", { x: 5 + place * step, y: base - tall, width: step - 1, height: tall });
    const from = edges[place] ?? "below", to = edges[place + 1] ?? "above";
    bar.append(shape("title", {}, `${from} to ${to}: ${count(number)}`));
    chart.append(bar);
  });
  const every = Math.ceil(edges.length / 9);
  edges.forEach((edge, place) => {
    if (edge !== null && place % every === 0) {
      chart.append(shape("text", { x: 5 + place * step, y: height - 10, "text-anchor": "middle" }, String(edge)));
    }
  });
  return element("section", {}, element("h2", {}, title), chart);
}

/** Return a map of cells, the more the brighter. */
function heat(title, cells) {
  const side = 320, step = side / cells.length;
  const most = Math.max(1, ...cells.flat());
  const chart = shape("svg", { viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": title, class: "heat" });
  cells.forEach((row, y) => row.forEach((number, x) => {
    const cell = shape("rect", { x: x * step, y: y * step, width: step, height: step, "fill-opacity": Math.sqrt(number / most) });
    cell.append(shape("title", {}, count(number)));
    chart.append(cell);
  }));
  return element("section", {}, element("h2", {}, title), chart);
}

export async function showStatistics(page, signal) {
  const found = await ask("/api/statistics", signal);
  if (signal.aborted) return;
  const rows = Object.entries(found.statuses).map(([status, number]) =>
    element("tr", {}, element("td", {}, element("a", { href: `#/?status=${status}` }, status)),
      element("td", { class: "number" }, count(number))));
  page.replaceChildren(
    element("div", { class: "charts" },
      element("section", {}, element("h2", {}, "Images by status"), element("table", {}, ...rows)),
      bars("Masks an image", found.masks_an_image),
      bars("Size of masks: square root of the share of the image", found.side_share),
      bars("Predicted IoU", found.predicted_iou),
      bars("Stability score", found.stability_score),
      heat("Where masks have their centres", found.centres)),
    element("p", {}, found.is_read ? "" : "Still reading: these are the shards read so far."),
  );
  if (!found.is_read) setTimeout(() => { if (!signal.aborted) showStatistics(page, signal); }, 2_000);
}
