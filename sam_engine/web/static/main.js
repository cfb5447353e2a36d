// Which page is shown: `#/`, `#/image/ID`, `#/segment/IMAGE`, `#/annotate/ID`, `#/audit`, `#/statistics`, each with its own ?parameters.
import { showAnnotate } from "./annotate.js";
import { showAudit } from "./audit.js";
import { ask, count, element } from "./dom.js";
import { showGrid } from "./grid.js";
import { showImage } from "./image.js";
import { showSegment } from "./segment.js";
import { showStatistics } from "./statistics.js";

const page = document.getElementById("page");
let leave = () => {};

async function show() {
  leave();
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const parameters = new URLSearchParams(query);
  const image = /^\/image\/(\d+)$/.exec(path);
  const visit = new AbortController();
  leave = () => visit.abort();
  const segment = /^\/segment(?:\/(images\/\d+|uploads\/[0-9a-f]{64}))?$/.exec(path);
  const annotate = /^\/annotate(?:\/(\d+))?$/.exec(path);
  const plain = ["/statistics", "/audit"].find((each) => each === path)?.slice(1);
  const name = image ? "image" : segment ? "segment" : annotate ? "annotate" : plain ?? "grid";
  for (const link of document.querySelectorAll("nav a")) link.classList.toggle("here", link.dataset.page === name);
  page.className = name;
  document.title = plain ?? "images";
  if (name === "grid") document.querySelector("nav a[data-page=grid]").href = location.hash || "#/"; // to come back to
  try {
    if (image) await showImage(page, Number(image[1]), parameters, visit.signal);
    else if (annotate) await showAnnotate(page, annotate[1] && Number(annotate[1]), visit.signal);
    else if (segment) await showSegment(page, segment[1], visit.signal);
    else if (name === "audit") await showAudit(page, visit.signal);
    else if (name === "statistics") await showStatistics(page, visit.signal);
    else await showGrid(page, parameters, visit.signal);
  } catch (error) {
    if (visit.signal.aborted) return;
    page.replaceChildren(element("p", { class: "problem", role: "alert" }, error.message),
      element("p", {}, element("a", { href: document.querySelector("nav a[data-page=grid]").href }, "back to the images")));
  }
}

async function tell() {
  try {
    const about = await ask("/api/about");
    const parts = [about.name, about.model, `${count(about.num_images)} images`, `${count(about.num_masks)} masks`];
    if (about.blurred.length) parts.push(`${about.blurred.join(" and ")} blurred`);
    if (!about.is_read) parts.push(`reading ${count(about.num_read)} of ${count(about.num_shards)} shards`);
    document.querySelector("[data-page=annotate]").classList.toggle("hidden", !about.annotates);
    document.querySelector("[data-page=audit]").classList.toggle("hidden", !about.audits);
    if (!about.is_finished) parts.push("being made");
    if (about.problems.length) parts.push(`${about.problems.length} shards cannot be read`);
    document.getElementById("about").textContent = parts.filter(Boolean).join(" · ");
    document.getElementById("about").dataset.read = about.is_read;
    setTimeout(tell, about.is_read && about.is_finished ? 30_000 : 1_000);
  } catch {
    document.getElementById("about").textContent = "the viewer does not answer";
    setTimeout(tell, 5_000);
  }
}

addEventListener("hashchange", show);
show();
tell();
