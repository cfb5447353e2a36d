// The grid: search, sort, filter, sample, page through.
import { ask, count, element } from "./dom.js";

const PAGE = 60;
const STATUSES = ["", "ok", "ok_empty", "failed"];
const STATUS_NAMES = { "": "all images", ok: "with masks", ok_empty: "no masks", failed: "failed" };
const ORDERS = { image_id: "name", num_masks: "number of masks", pixels: "size", mean_iou: "mean predicted IoU" };

/** Move to the same page with other parameters; those of null are dropped. */
function go(parameters, changes) {
  const next = new URLSearchParams(parameters);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  location.hash = `#/?${next}`;
}

export async function showGrid(page, parameters, signal) {
  const offset = Number(parameters.get("offset") ?? 0);
  const query = new URLSearchParams(parameters);
  query.set("limit", PAGE);
  const answer = await ask(`/api/images?${query}`, signal);
  if (signal.aborted) return;
  const choice = (name, label, options, start) =>
    element(
      "select",
      { name, "aria-label": label, onchange: (event) => go(parameters, { [name]: event.target.value, offset: null }) },
      ...Object.entries(options).map(([value, text]) =>
        element("option", { value, selected: value === (parameters.get(name) ?? start) }, text)),
    );
  const search = element("input", {
    type: "search", name: "text", "aria-label": "search in names", placeholder: "part of a name", value: parameters.get("text") ?? "",
    onchange: (event) => go(parameters, { text: event.target.value, offset: null }),
  });
  const least = element("input", {
    type: "number", name: "min_masks", min: 0, value: parameters.get("min_masks") ?? "", placeholder: "0",
    onchange: (event) => go(parameters, { min_masks: event.target.value, offset: null }),
  });
  const toggle = (name, text) =>
    element("label", {}, element("input", {
      type: "checkbox", name, checked: parameters.get(name) === "1",
      onchange: (event) => go(parameters, { [name]: event.target.checked ? "1" : null, offset: null }),
    }), ` ${text}`);
  const masks = parameters.get("masks") !== "0";
  const controls = element(
    "form", { class: "controls", onsubmit: (event) => event.preventDefault() },
    search,
    choice("status", "which images", Object.fromEntries(STATUSES.map((value) => [value, STATUS_NAMES[value]])), ""),
    element("label", {}, "at least ", least, " masks"),
    element("label", {}, "by ", choice("order", "order", ORDERS, "image_id")),
    toggle("descending", "descending"),
    element("button", {
      type: "button", onclick: () => go(parameters, { sample: Math.floor(Math.random() * 2 ** 31), offset: null }),
    }, "random sample"),
    element("button", { type: "button", onclick: () => { location.hash = "#/"; } }, "reset"),
    element("label", {}, element("input", {
      type: "checkbox", name: "masks", checked: masks,
      onchange: (event) => go(parameters, { masks: event.target.checked ? null : "0" }),
    }), " masks shown"),
  );
  const cards = answer.images.map((image) => card(image, masks));
  const last = offset + answer.images.length;
  const pager = element(
    "p", { class: "pager" },
    element("button", {
      disabled: offset === 0, onclick: () => go(parameters, { offset: Math.max(0, offset - PAGE) || null }),
    }, "previous"),
    ` ${answer.images.length ? count(offset + 1) : 0} to ${count(last)} of ${count(answer.total ?? last)}`,
    answer.is_read ? " " : " (still reading) ",
    element("button", {
      disabled: last >= (answer.total ?? last), onclick: () => go(parameters, { offset: last }),
    }, "next"),
  );
  const nothing = answer.is_read ? "No image is like that." : "None of the images read so far is like that.";
  page.replaceChildren(
    controls, cards.length ? element("div", { class: "cards" }, ...cards) : element("p", { class: "dim" }, nothing), pager);
}

function card(image, masks) {
  const picture = image.status === "ok" || image.status === "ok_empty"
    ? element("img", {
      loading: "lazy", alt: "", onerror: (event) => event.target.replaceWith(element("span", { class: "gone" }, "image not found")),
      src: `/api/images/${image.image_id}/thumbnail.jpg${masks ? "" : "?masks=0"}`,
    })
    : element("span", { class: "gone" }, image.status.replaceAll("_", " "));
  return element(
    "a", { class: "card", href: `#/image/${image.image_id}`, "data-status": image.status },
    picture,
    element("span", { class: "name" }, image.file_name),
    element("span", { class: "count" }, image.status === "ok" ? `${count(image.num_masks)} masks`
      : STATUS_NAMES[image.status] ?? image.status.replaceAll("_", " ")),
  );
}
