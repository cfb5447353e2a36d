// Safetensors in half or single precision: 8 bytes of length, a header in JSON, then the numbers.

/** Float32 of every half-precision number; there are 65,536. */
const halves = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24
    : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
  halves[bits] = bits >> 15 ? -size : size;
}

/** Return { metadata, tensors: { name: { shape, data: Float32Array } } } of an ArrayBuffer. */
export function parseSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(entries)) {
    const bytes = buffer.slice(8 + length + start, 8 + length + end);
    tensors[name] = { shape, data: dtype === "F16" ? fromHalf(new Uint16Array(bytes)) : new Float32Array(bytes) };
  }
  return { metadata, tensors };
}

function fromHalf(values) {
  const numbers = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) numbers[i] = halves[values[i]];
  return numbers;
}
