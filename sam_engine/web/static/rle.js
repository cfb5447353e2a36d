// COCO's compressed run lengths. Masks are scanned column by column, background first; sizes are [height, width].

/** Return the runs of `counts` as a Uint32Array that sums to height * width; throws where they do not fit. */
export function decodeCounts(counts, [height, width]) {
  const runs = new Float64Array(counts.length);
  const total = height * width;
  let number = 0;
  let sum = 0;
  for (let place = 0; place < counts.length; ) {
    let value = 0;
    let scale = 1;
    let group;
    do {
      if (place === counts.length) throw new RangeError("run lengths end within a number");
      group = counts.charCodeAt(place++) - 48;
      if (group < 0 || group > 63 || scale > 2 ** 30) throw new RangeError("not a run length");
      value += (group & 31) * scale; // not shifted: runs may have 32 bits, differences 33
      scale *= 32;
    } while (group & 32);
    if (group & 16) value -= scale;
    if (number > 2) value += runs[number - 2];
    sum += value;
    if (value < 0 || sum > total) throw new RangeError("run lengths leave the image");
    runs[number++] = value;
  }
  if (sum !== total) throw new RangeError("run lengths do not fill the image");
  return Uint32Array.from(runs.subarray(0, number));
}

/** Return [start, end, start, end, ...] of the foreground, as places in column-major order. */
export function foreground(runs) {
  const spans = new Uint32Array(runs.length - (runs.length % 2));
  let place = 0;
  for (let number = 0; number + 1 < runs.length; number += 2) {
    place += runs[number];
    spans[number] = place;
    place += runs[number + 1];
    spans[number + 1] = place;
  }
  return spans;
}

/** Return the compressed `counts` of runs: what `decodeCounts` reads. */
export function encodeRuns(runs) {
  let counts = "";
  runs.forEach((run, number) => {
    let value = number > 2 ? run - runs[number - 2] : run;
    for (let isLast = false; !isLast; ) {
      const group = ((value % 32) + 32) % 32;
      value = Math.floor(value / 32);
      isLast = group & 16 ? value === -1 : value === 0;
      counts += String.fromCharCode(48 + (isLast ? group : group | 32));
    }
  });
  return counts;
}
