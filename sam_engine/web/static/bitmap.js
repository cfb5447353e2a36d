// Masks as a byte for each pixel, column by column as run lengths are: painted on, cut apart, put together.

/** Return a bitmap of spans [start, end, start, end, ...]. */
export function fromSpans(spans, length) {
  const bitmap = new Uint8Array(length);
  for (let i = 0; i < spans.length; i += 2) bitmap.fill(1, spans[i], spans[i + 1]);
  return bitmap;
}

/** Return the run lengths of a bitmap, background first. */
export function toRuns(bitmap) {
  const runs = [];
  for (let place = 0, value = 0; place < bitmap.length; value = 1 - value) {
    const found = bitmap.indexOf(1 - value, place);
    const end = found < 0 ? bitmap.length : found;
    runs.push(end - place);
    place = end;
  }
  return runs;
}

/** Set the pixels of a disc, and of all discs on the way from one point to another; return the box that has changed. */
export function paintStroke(bitmap, width, height, [fromX, fromY], [toX, toY], radius, value) {
  const left = Math.max(0, Math.ceil(Math.min(fromX, toX) - radius));
  const right = Math.min(width - 1, Math.floor(Math.max(fromX, toX) + radius));
  let [top, bottom] = [height, -1];
  const steps = Math.max(1, Math.ceil(Math.hypot(toX - fromX, toY - fromY) / Math.max(0.5, radius / 4)));
  for (let step = 0; step <= steps; step++) {
    const [x, y] = [fromX + ((toX - fromX) * step) / steps, fromY + ((toY - fromY) * step) / steps];
    for (let column = Math.max(left, Math.ceil(x - radius)); column <= Math.min(right, Math.floor(x + radius)); column++) {
      const half = Math.sqrt(Math.max(0, radius * radius - (column - x) ** 2));
      const y0 = Math.max(0, Math.ceil(y - half));
      const y1 = Math.min(height, Math.floor(y + half) + 1);
      if (y0 >= y1) continue;
      bitmap.fill(value, column * height + y0, column * height + y1);
      top = Math.min(top, y0);
      bottom = Math.max(bottom, y1 - 1);
    }
  }
  return bottom < 0 || left > right ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** Return the two parts of a bitmap on either side of the line through two points; no pixel is lost. */
export function cutByLine(bitmap, height, [fromX, fromY], [toX, toY]) {
  const parts = [new Uint8Array(bitmap.length), new Uint8Array(bitmap.length)];
  for (let place = bitmap.indexOf(1); place >= 0; place = bitmap.indexOf(1, place + 1)) {
    const x = Math.floor(place / height);
    const y = place - x * height;
    const side = (toX - fromX) * (y - fromY) - (toY - fromY) * (x - fromX);
    parts[side > 0 ? 1 : 0][place] = 1;
  }
  return parts;
}

/** Return the connected parts of a bitmap, each as a bitmap; pixels that touch at a corner are connected. */
export function components(bitmap, height) {
  const rest = bitmap.slice();
  const parts = [];
  const waiting = [];
  for (let seed = rest.indexOf(1); seed >= 0; seed = rest.indexOf(1, seed + 1)) {
    const part = new Uint8Array(bitmap.length);
    rest[seed] = 0;
    waiting.push(seed);
    while (waiting.length) {
      const place = waiting.pop();
      part[place] = 1;
      const y = place % height;
      for (let dy = y > 0 ? -1 : 0; dy <= (y < height - 1 ? 1 : 0); dy++) {
        for (const next of [place + dy - height, place + dy, place + dy + height]) {
          if (next >= 0 && next < rest.length && rest[next]) {
            rest[next] = 0;
            waiting.push(next);
          }
        }
      }
    }
    parts.push(part);
  }
  return parts;
}
