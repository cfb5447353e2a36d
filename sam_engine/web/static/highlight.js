// One mask as it looks on screen. It costs what it covers there, however large the image is.

/** Pixels of a screen whose outline is this far from the outside, in CSS pixels, are the outline. */
const OUTLINE = 2;

/**
 * Return { image, x, y }: a mask as ImageData of the screen, and where it goes; null if none of it is in view.
 *
 * A pixel of the image covers at least one of the screen, so that no mask is too small to be seen.
 *
 * @param stack a MaskStack, and the number of one of its masks
 * @param view { scale, left, top }: where the image lies, and { width, height } of the screen; in its pixels
 * @param colours { fill, edge }, as 32 bits of ImageData
 */
export function highlight(stack, number, view, { fill, edge }) {
  const { scale, left, top } = view;
  const thick = Math.max(1, Math.round(OUTLINE * (devicePixelRatio || 1)));
  const box = stack.box(number);
  // Somewhat beyond the screen, so that its edge does not look like one of the mask.
  const clip = (value, most) => Math.min(most + thick, Math.max(-thick, value));
  const x0 = clip(Math.floor(left + box.left * scale), view.width);
  const y0 = clip(Math.floor(top + box.top * scale), view.height);
  const x1 = clip(Math.ceil(left + (box.left + box.width) * scale) + 1, view.width);
  const y1 = clip(Math.ceil(top + (box.top + box.height) * scale) + 1, view.height);
  const [width, height] = [x1 - x0, y1 - y0];
  if (width <= 0 || height <= 0) return null;
  const tall = height + 2 * thick; // of a column, with a margin of nothing round all
  const inside = new Uint8Array((width + 2 * thick) * tall);
  stack.forEachStretch(number, (x, from, to) => {
    const column = Math.floor(left + x * scale);
    const last = Math.min(x1, Math.max(column + 1, Math.floor(left + (x + 1) * scale)));
    const row = Math.floor(top + from * scale);
    const start = Math.max(row, y0);
    const end = Math.min(y1, Math.max(row + 1, Math.floor(top + to * scale)));
    if (start >= end) return;
    for (let i = Math.max(column, x0); i < last; i++) {
      const base = (i - x0 + thick) * tall + thick - y0;
      inside.fill(1, base + start, base + end);
    }
  });
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const [near, far] = [tall, thick * tall];
  for (let i = 0; i < width; i++) {
    for (let j = 0, place = (i + thick) * tall + thick; j < height; j++, place++) {
      if (!inside[place]) continue;
      const isCore = inside[place - 1] & inside[place + 1] & inside[place - near] & inside[place + near] &
        inside[place - thick] & inside[place + thick] & inside[place - far] & inside[place + far];
      pixels[j * width + i] = isCore ? fill : edge;
    }
  }
  return { image, x: x0, y: y0 };
}
