// A reader of version 1, written from docs/wire.md alone: Node and its standard library.
//
//   node wire_decoder.mjs MESSAGE...
//
// prints one line of JSON a file: what the message is, and of each mask its pixels as one string
// of 0 and 1, row by row; logits as the hex of their bits.

import { readFileSync } from "node:fs";

const MAX_HEADER = 1048576;

// JSON.parse reads 64-bit integers as doubles; these must keep every digit.
const exact = (text) => text.replace(/("(?:\w*_ns|id)":)(-?\d+)/g, '$1"$2"');

function open(message) {
  const end = message.indexOf(0);
  if (end < 1 || end > 160) throw new Error("no topic");
  const length = message.readUInt32LE(end + 1);
  if (length > MAX_HEADER || end + 5 + length > message.length) throw new Error("header too long");
  const start = end + 5;
  const header = JSON.parse(exact(message.subarray(start, start + length).toString("utf8")));
  if (header.version !== 1) throw new Error(`version ${header.version}, expected 1`);
  return { topic: message.subarray(0, end).toString("ascii"), header, payload: message.subarray(start + length) };
}

const bytesOf = (payload, { offset, bytes }) => {
  if (offset < 0 || bytes < 0 || offset + bytes > payload.length) throw new Error("outside the payload");
  return payload.subarray(offset, offset + bytes);
};

function fromBits(payload, row, height, width) {
  const mask = new Uint8Array(height * width);
  const [x1, y1, x2, y2] = row.box;
  const packed = bytesOf(payload, row);
  const stride = Math.floor((x2 - x1 + 7) / 8);
  for (let y = y1; y < y2; y++)
    for (let x = x1; x < x2; x++) {
      const byte = packed[(y - y1) * stride + Math.floor((x - x1) / 8)];
      mask[y * width + x] = (byte >> (7 - ((x - x1) % 8))) & 1;
    }
  return mask;
}

function fromRuns(payload, row, height, width) {
  const text = bytesOf(payload, row);
  const counts = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 1, more = true;
    while (more) {
      const bits = text[at++] - 48;
      value += (bits & 31) * shift;
      shift *= 32;
      more = (bits & 32) !== 0;
      if (!more && bits & 16) value -= shift;
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  const mask = new Uint8Array(height * width);
  let place = 0, colour = 0;
  for (const count of counts) {
    for (let n = 0; n < count; n++, place++)
      mask[(place % height) * width + Math.floor(place / height)] = colour;
    colour = 1 - colour;
  }
  if (place !== height * width) throw new Error("the counts do not add up");
  return mask;
}

function samples(low, high) {
  return Array.from({ length: high }, (_, n) => {
    const place = Math.max(((n + 0.5) * low) / high - 0.5, 0);
    const first = Math.floor(place);
    return [first, Math.min(first + 1, low - 1), place - first];
  });
}

function fromLogits(values, array, n, height, width) {
  const [, h, w] = array.shape;
  const [x1, y1, x2, y2] = array.window;
  const mask = new Uint8Array(height * width);
  const at = (y, x) => values[(n * h + y) * w + x];
  const columns = samples(w, x2 - x1);
  samples(h, y2 - y1).forEach(([a, b, v], y) => {
    const tall = Array.from({ length: w }, (_, x) => at(a, x) * (1 - v) + at(b, x) * v);
    columns.forEach(([c, d, u], x) => {
      const value = tall[c] * (1 - u) + tall[d] * u;
      mask[(y1 + y) * width + x1 + x] = value > array.threshold ? 1 : 0;
    });
  });
  return mask;
}

function read(file) {
  const { topic, header, payload } = open(readFileSync(file));
  const out = { topic, ...header, masks: null, logits: null };
  if (header.kind !== "result") return out;
  const [height, width] = header.size_hw;
  for (const array of header.arrays) {
    if (array.name === "masks") {
      const unpack = { bits: fromBits, rle: fromRuns }[array.encoding];
      if (!unpack) throw new Error(`masks in an encoding that is not known: ${array.encoding}`);
      out.masks = array.rows.map((row) => unpack(payload, row, height, width).join(""));
    } else if (array.name === "logits") {
      const bytes = bytesOf(payload, array);
      const values = Array.from({ length: bytes.length / 4 }, (_, n) => bytes.readFloatLE(4 * n));
      out.logits = bytes.toString("hex");
      out.masks = header.objects.map((_, n) => fromLogits(values, array, n, height, width).join(""));
    }
  }
  return out;
}

for (const file of process.argv.slice(2)) {
  try {
    console.log(JSON.stringify(read(file)));
  } catch (error) {
    console.log(JSON.stringify({ refused: error.message }));
  }
}
