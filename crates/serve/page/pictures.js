// Pictures that the server sends as PNG, drawn with whole device pixels.

const GAP = 4; // css pixels between images

/** The bytes of a PNG in base64. */
export function blobOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: 'image/png' });
}

/** Decoded pixels, exactly as in the file. */
export function decode(base64) {
  return createImageBitmap(blobOf(base64), { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
}

/** The layout of images in a picture: their size and the gaps. */
const PLAIN = { width: 0, height: 0, gutter: 0, scale: 1 };

/** The images of a picture that has `n` of them, `columns` in a row, laid out as `tile` says. */
export class Grid {
  constructor(bitmap, n, columns, tile = null) {
    Object.assign(this, { bitmap, n, columns, rows: Math.ceil(n / columns) });
    const { width, height, gutter, scale } = tile ?? { ...PLAIN, width: bitmap.width / columns, height: bitmap.height / this.rows };
    Object.assign(this, { width: width / scale, height: height / scale });
    this.tile = { width, height, gutter, scale };
  }

  /** Places for images that have not arrived yet. */
  static blank(n, columns, width, height) {
    return new Grid(null, n, columns, { ...PLAIN, width, height });
  }

  /** The part of the picture that is image `i`: left, top, width, height. */
  part(i) {
    const { width, height, gutter } = this.tile;
    return [gutter + (i % this.columns) * (width + gutter), gutter + Math.floor(i / this.columns) * (height + gutter), width, height];
  }

  /** Image `i` alone. */
  async image(i) {
    return new Grid(await createImageBitmap(this.bitmap, ...this.part(i)), 1, 1, { ...this.tile, gutter: 0 });
  }
}

/** Images side by side on a canvas, as large as there is room for: each pixel a square of whole device pixels. */
export class Mosaic {
  #canvas;
  #room;
  #grid = null;
  #most;

  /** `room` is the element whose width the canvas may fill, `most` the greatest share of the window's height. */
  constructor(canvas, { room = canvas.parentElement, most = 0.62, largest = Infinity } = {}) {
    this.#canvas = canvas;
    this.#room = room;
    this.#most = { height: most, scale: largest };
    let width = 0;
    new ResizeObserver(() => {
      if (room.clientWidth === width) return;
      width = room.clientWidth;
      this.#draw();
    }).observe(room);
  }

  get canvas() {
    return this.#canvas;
  }

  show(grid) {
    this.#grid = grid;
    this.#draw();
  }

  /** Shows empty places, unless images of the same number and size are shown and may stay until then. */
  expect(blank) {
    const now = this.#grid;
    if (!now?.bitmap || ['n', 'columns', 'width', 'height'].some((key) => now[key] !== blank[key])) this.show(blank);
  }

  /** Sizes of an image and of the gap, in CSS pixels. */
  layout() {
    const { scale, gap, ratio } = this.#measure();
    return { w: (this.#grid.width * scale) / ratio, h: (this.#grid.height * scale) / ratio, step: gap / ratio };
  }

  #measure() {
    const { columns, rows, width, height } = this.#grid;
    const ratio = window.devicePixelRatio || 1;
    const gap = columns * rows > 1 ? Math.round((columns > 8 ? GAP / 2 : GAP) * ratio) : 0;
    const across = (this.#room.clientWidth * ratio - gap * (columns - 1)) / (width * columns);
    const down = (window.innerHeight * this.#most.height * ratio - gap * (rows - 1)) / (height * rows);
    const most = Math.min(across, Math.max(down, ratio), this.#most.scale * ratio);
    return { scale: Math.max(1, Math.floor(most)), gap, ratio };
  }

  #draw() {
    if (!this.#grid || !this.#room.clientWidth) return;
    const { scale, gap } = this.#measure();
    paint(this.#canvas, this.#grid, scale, gap);
  }
}

/** Draws images or their places. A pixel becomes a square of `scale` device pixels; images are `gap` of those apart. */
export function paint(canvas, grid, scale, gap) {
  const { bitmap, n, columns, rows } = grid;
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [grid.width * scale, grid.height * scale];
  const [across, down] = [columns * (w + gap) - gap, rows * (h + gap) - gap];
  if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
  canvas.style.width = `${across / ratio}px`;
  canvas.style.height = `${down / ratio}px`;
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, across, down);
  context.fillStyle = getComputedStyle(canvas).getPropertyValue('--empty') || '#888';
  for (let i = 0; i < n; i += 1) {
    const place = [(i % columns) * (w + gap), Math.floor(i / columns) * (h + gap), w, h];
    if (bitmap) context.drawImage(bitmap, ...grid.part(i), ...place);
    else context.fillRect(...place);
  }
}

/** One image as its own canvas, with a square of `scale` CSS pixels for each pixel. */
export function single(bitmap, label, scale = 1) {
  const canvas = document.createElement('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', label);
  const ratio = window.devicePixelRatio || 1;
  paint(canvas, new Grid(bitmap, 1, 1), Math.max(1, Math.floor(scale * ratio)), 0);
  return canvas;
}

/** A white sheet of captioned pictures in rows and columns, as a PNG. Places that are null stay empty. */
export function sheet(rowWords, columnWords, bitmaps, scale = 2) {
  const all = bitmaps.flat().filter(Boolean);
  const [w, h] = [Math.max(...all.map((b) => b.width)) * scale, Math.max(...all.map((b) => b.height)) * scale];
  const [left, top, gap] = [96, 34, 8];
  const canvas = new OffscreenCanvas(left + columnWords.length * (w + gap), top + rowWords.length * (h + gap));
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(context, { fillStyle: '#222', font: '15px sans-serif', textBaseline: 'middle', textAlign: 'center' });
  columnWords.forEach((word, j) => context.fillText(word, left + j * (w + gap) + w / 2, top / 2, w + gap));
  context.textAlign = 'right';
  rowWords.forEach((word, i) => context.fillText(word, left - 10, top + i * (h + gap) + h / 2, left - 14));
  bitmaps.forEach((row, i) => row.forEach((b, j) => {
    if (b) context.drawImage(b, left + j * (w + gap), top + i * (h + gap), b.width * scale, b.height * scale);
  }));
  return canvas.convertToBlob({ type: 'image/png' });
}
