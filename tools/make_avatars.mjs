// Draws class-conditional colour images with DiceBear: one class per style, one image per seed.
//
//   npm install --no-save @dicebear/core@9 @dicebear/collection@9 @resvg/resvg-js
//   node tools/make_avatars.mjs OUT [--train 3000] [--test 200] [--styles lorelei,micah,...]
//
// Writes gzipped files in MNIST's format, which `read_idx` of the package reads:
// `{train,test}-{32,64}-images-idx4-ubyte.gz` (N x 3 x size x size, classes in rotation) and
// `{train,test}-labels-idx1-ubyte.gz`; and `licences.json`, each style's author and licence as
// its package states them. No image occurs twice in the data, so a test image was never trained on.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createWriteStream, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { parseArgs } from "node:util";
import { createGzip } from "node:zlib";

import * as collection from "@dicebear/collection";
import { createAvatar } from "@dicebear/core";
import { Resvg } from "@resvg/resvg-js";

const SIZES = [32, 64];
const DRAWN = 256; // pixels per side before the reduction
const PATIENCE = 10; // seeds per image before a style is given up
const ALLOWED = ["CC0 1.0", "CC BY 4.0"];
const STYLES = ["adventurer", "bigSmile", "dylan", "lorelei", "micah", "miniavs",
                "notionists", "openPeeps", "personas", "pixelArt", "shapes", "thumbs"];

/** Return the author, licence and source of a style. Throw if the licence is not a free one. */
function licenceOf(name) {
  const { title, creator, source, license } = collection[name].meta;
  if (!ALLOWED.includes(license.name)) {
    throw new Error(`styles must be under ${ALLOWED.join(" or ")}, got ${name} (${license.name})`);
  }
  return { style: name, title, creator, source, licence: license.name, url: license.url };
}

/** Return the avatar of a seed on white, RGBA bytes of DRAWN x DRAWN pixels. */
function draw(name, seed) {
  const svg = createAvatar(collection[name], { seed, size: DRAWN }).toString();
  const resvg = new Resvg(svg, {
    background: "white", fitTo: { mode: "width", value: DRAWN }, font: { loadSystemFonts: false },
  });
  return resvg.render().pixels;
}

/** Average square blocks of RGBA bytes; return size x size pixels, colour by colour. */
function reduce(rgba, size) {
  const block = DRAWN / size;
  const out = new Uint8Array(3 * size ** 2);
  for (let colour = 0; colour < 3; colour++) {
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        let sum = 0;
        for (let i = row * block; i < (row + 1) * block; i++) {
          for (let j = column * block; j < (column + 1) * block; j++) {
            sum += rgba[4 * (i * DRAWN + j) + colour];
          }
        }
        out[(colour * size + row) * size + column] = Math.round(sum / block ** 2);
      }
    }
  }
  return out;
}

/** Yield the images of a style, one array of pixels per size, without those in `seen`. */
function* newImages(name, part, count, seen) {
  for (let number = 0; number < PATIENCE * count; number++) {
    const rgba = draw(name, `${part}-${number}`);
    const images = SIZES.map((size) => reduce(rgba, size));
    const digest = createHash("sha256").update(images[0]).digest("base64");
    if (seen.has(digest)) continue;
    seen.add(digest);
    yield images;
  }
  throw new Error(`${name} has fewer than ${count} different images: leave it out`);
}

/** Open a gzipped file in MNIST's format for bytes in the given shape. */
function openIdx(path, shape) {
  const header = Buffer.alloc(4 + 4 * shape.length);
  header.writeUInt8(8, 2); // the code of uint8
  header.writeUInt8(shape.length, 3);
  shape.forEach((length, i) => header.writeUInt32BE(length, 4 + 4 * i));
  const file = createGzip();
  file.pipe(createWriteStream(path));
  file.write(header);
  return file;
}

/** Write bytes to a stream and wait while it is full. */
async function put(stream, bytes) {
  if (!stream.write(bytes)) await once(stream, "drain");
}

/** Write the images of one part, `count` per style, none of them in `seen`. */
async function writePart(out, part, styles, count, seen) {
  const total = count * styles.length;
  const labels = openIdx(join(out, `${part}-labels-idx1-ubyte.gz`), [total]);
  const images = SIZES.map((size) =>
    openIdx(join(out, `${part}-${size}-images-idx4-ubyte.gz`), [total, 3, size, size]));
  const sources = styles.map((name) => newImages(name, part, count, seen));
  for (let i = 0; i < total; i++) {
    const label = i % styles.length;
    const pixels = sources[label].next().value;
    for (const [k, file] of images.entries()) await put(file, pixels[k]);
    await put(labels, Uint8Array.of(label));
    await setImmediate(); // lets Node.js free what resvg has drawn
  }
  [labels, ...images].forEach((stream) => stream.end());
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    train: { type: "string", default: "3000" },
    test: { type: "string", default: "200" },
    styles: { type: "string", default: STYLES.join(",") },
  },
});
const [out] = positionals;
const styles = values.styles.split(",");
mkdirSync(out, { recursive: true });
writeFileSync(join(out, "licences.json"), JSON.stringify(styles.map(licenceOf), null, 1) + "\n");
const seen = new Set();
await writePart(out, "train", styles, Number(values.train), seen);
await writePart(out, "test", styles, Number(values.test), seen);
