// An audit: the images that were drawn, each to be corrected mask by mask, and what is missing in them.
import { ask, count, element } from "./dom.js";

const percent = (share) => (share === null ? "unknown" : `${(100 * share).toFixed(1)} %`);

async function say(image, missing, by) {
  const response = await fetch(`/api/audit/images/${image.image_id}/missing`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ by, missing }),
  });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? response.statusText);
}

export async function showAudit(page, signal) {
  const [audit, report] = await Promise.all([ask("/api/audit", signal), ask("/api/audit/report", signal)]);
  if (signal.aborted) return;
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const row = (image) => {
    const missing = element("input", {
      type: "number", min: 0, max: 100000, value: image.missing ?? "", placeholder: "0",
      "aria-label": `things without a mask in ${image.file_name}`,
    });
    const done = element("button", {
      onclick: async () => {
        try {
          await say(image, Number(missing.value || 0), audit.by);
          if (!signal.aborted) await showAudit(page, signal);
        } catch (error) {
          problem.textContent = error.message;
          problem.hidden = false;
        }
      },
    }, image.is_judged ? "change" : "done");
    return element(
      "tr", { "data-image": image.image_id, "data-judged": String(image.is_judged) },
      element("td", {}, element("a", { href: `#/annotate/${image.image_id}` }, image.file_name)),
      element("td", { class: "number" }, count(image.num_masks)),
      element("td", { class: "number" }, count(image.num_said)),
      element("td", {}, missing), element("td", {}, done),
      element("td", {}, image.is_judged ? "judged" : ""));
  };
  const { images, masks, iou, exhaustiveness } = report;
  const heading = (text) => element("th", { scope: "col" }, text);
  page.replaceChildren(
    element("section", { class: "padded" },
      element("h1", {}, "Audit"),
      element("p", { class: "dim" }, "Open an image, mend or delete what is wrong, accept what is right; then say how many " +
        "things have no mask, besides those that you drew. Masks that nobody touched in a judged image are taken for right."),
      element("p", { id: "audit-summary" },
        `${count(images.judged)} of ${count(images.sampled)} images judged · ${count(masks.judged)} masks: ` +
        `${count(masks.corrected)} corrected, ${count(masks.deleted)} deleted · IoU above 0.9: ` +
        `${percent(iou.above["0.9"].share)} of ${count(iou.pairs)} pairs · ` +
        `${percent(exhaustiveness.share_found)} of things have a mask`),
      problem,
      element("table", {},
        element("thead", {}, element("tr", {},
          ...["image", "masks", "touched", "missing", "", ""].map(heading))),
        element("tbody", {}, ...audit.images.map(row)))));
}
