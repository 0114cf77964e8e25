// Pictures: what the server sends as PNG, drawn with whole device pixels.

const GAP = 4; // css pixels between images

/** Bytes of a PNG that came as base64. */
export function blobOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: 'image/png' });
}

/** Decoded pixels, exactly as the file has them. */
export function decode(base64) {
  return createImageBitmap(blobOf(base64), { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
}

/**
 * Images side by side on a canvas. The server packs the images of one picture without gaps; here they are set apart, each
 * pixel a square of whole device pixels.
 */
export class Mosaic {
  #canvas;
  #room;
  #picture = null;
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
      this.draw();
    }).observe(room);
  }

  get canvas() {
    return this.#canvas;
  }

  /** Shows `n` images of the packed `bitmap`, `columns` in a row. */
  show(bitmap, n, columns) {
    this.#picture = { bitmap, n, columns, rows: Math.ceil(n / columns) };
    this.#canvas.classList.remove('waiting');
    this.draw();
  }

  /** Empty places for `n` images of this size, until they come. */
  expect(n, columns, width, height) {
    const same = this.#picture;
    if (same?.bitmap && same.n === n && same.columns === columns && same.bitmap.width === columns * width) return;
    this.#picture = { bitmap: null, n, columns, rows: Math.ceil(n / columns), width, height };
    this.#canvas.classList.add('waiting');
    this.draw();
  }

  /** Where image `i` lies, in CSS pixels of the canvas. */
  place(i) {
    const { w, h, step } = this.layout();
    const { columns } = this.#picture;
    return { x: (i % columns) * (w + step), y: Math.floor(i / columns) * (h + step), w, h, step };
  }

  /** Sizes of an image and of the gap, in CSS pixels. */
  layout() {
    const { scale, gap, w, h, ratio } = this.#measure();
    return { w: (w * scale) / ratio, h: (h * scale) / ratio, step: gap / ratio };
  }

  #measure() {
    const { bitmap, columns, rows } = this.#picture;
    const ratio = window.devicePixelRatio || 1;
    const w = bitmap ? bitmap.width / columns : this.#picture.width;
    const h = bitmap ? bitmap.height / rows : this.#picture.height;
    const gap = columns * rows > 1 ? Math.round((columns > 8 ? GAP / 2 : GAP) * ratio) : 0;
    const across = (this.#room.clientWidth * ratio - gap * (columns - 1)) / (w * columns);
    const down = (window.innerHeight * this.#most.height * ratio - gap * (rows - 1)) / (h * rows);
    const most = Math.min(across, Math.max(down, ratio), this.#most.scale * ratio);
    return { scale: Math.max(1, Math.floor(most)), gap, w, h, ratio };
  }

  draw() {
    if (!this.#picture || !this.#room.clientWidth) return;
    const { scale, gap, ratio } = this.#measure();
    paint(this.#canvas, this.#picture, scale, gap, ratio);
  }
}

/**
 * Draws the images of a packed picture, or, while there is no `bitmap`, their places: every pixel a square of `scale` device
 * pixels, `gap` of them between images.
 */
export function paint(canvas, { bitmap, n, columns, width, height }, scale, gap, ratio = window.devicePixelRatio || 1) {
  const rows = Math.ceil(n / columns);
  const [w, h] = bitmap ? [bitmap.width / columns, bitmap.height / rows] : [width, height];
  const [across, down] = [columns * (w * scale + gap) - gap, rows * (h * scale + gap) - gap];
  if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
  canvas.style.width = `${across / ratio}px`;
  canvas.style.height = `${down / ratio}px`;
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, across, down);
  context.fillStyle = getComputedStyle(canvas).getPropertyValue('--empty') || '#888';
  for (let i = 0; i < n; i += 1) {
    const [column, row] = [i % columns, Math.floor(i / columns)];
    const [x, y] = [column * (w * scale + gap), row * (h * scale + gap)];
    if (bitmap) context.drawImage(bitmap, column * w, row * h, w, h, x, y, w * scale, h * scale);
    else context.fillRect(x, y, w * scale, h * scale);
  }
}

/** A white sheet of pictures in rows and columns with a word for each, as a PNG. Places that are null stay empty. */
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

/** One image as a canvas of its own, each pixel a square of `scale` CSS pixels. */
export function tile(bitmap, label, scale = 1) {
  const canvas = document.createElement('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', label);
  const ratio = window.devicePixelRatio || 1;
  paint(canvas, { bitmap, n: 1, columns: 1 }, Math.max(1, Math.floor(scale * ratio)), 0, ratio);
  return canvas;
}
