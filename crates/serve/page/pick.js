// Choosing a picture: a file, dropped or picked, or a test image. The server resizes a file to the model's size at once. The
// resized picture fits into the address, so a link holds the picture itself.

import { getBlob, postJson } from './api.js';
import { diceButton } from './fields.js';
import { blobOf } from './pictures.js';

const THUMBS = 6;

const toUrl = (base64) => base64.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
const fromUrl = (text) => text.replaceAll('-', '+').replaceAll('_', '/');

export class Picker {
  #root;
  #field;
  #preview;
  #thumbs;
  #picked;
  #tests = 0;
  #limit = 0;
  /** Count choices and offers, so that late answers to earlier ones are ignored. */
  #choice = 0;
  #offers = 0;

  /**
   * Puts itself into `box`; its value is the hidden field `name`. `picked(error)` is called when another picture is chosen, or a
   * file that is not a picture.
   */
  constructor(box, { name, title, picked }) {
    this.#picked = picked;
    const root = document.createElement('div');
    root.className = 'field pick';
    root.dataset.field = `image${box.childElementCount || ''}`;
    this.#root = root;
    root.innerHTML = `<p class="label"></p><input type="hidden" name="${name}" data-silent value="">
      <div class="drop"><img class="preview" alt="" hidden>
        <label class="button quiet"><span>Choose a picture</span><input type="file" accept="image/png,image/jpeg,image/webp"></label>
      </div><div class="thumbs" role="group" hidden></div>`;
    root.querySelector('.label').textContent = title;
    this.#field = root.querySelector('[type=hidden]');
    this.#preview = root.querySelector('img');
    this.#thumbs = root.querySelector('.thumbs');
    this.#thumbs.setAttribute('aria-label', `${title}: test images`);
    const file = root.querySelector('[type=file]');
    file.setAttribute('aria-label', `${title}: choose a picture`);
    file.addEventListener('change', () => {
      this.take(file.files[0]);
      file.value = '';
    });
    const drop = root.querySelector('.drop');
    for (const kind of ['dragenter', 'dragover']) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add('over');
      });
    }
    for (const kind of ['dragleave', 'drop']) drop.addEventListener(kind, () => drop.classList.remove('over'));
    drop.addEventListener('drop', (event) => {
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
    this.#field.addEventListener('skip:set', () => {
      this.#choice += 1;
      this.#show();
    });
    box.append(root);
  }

  get value() {
    return this.#field.value;
  }

  /** The test image, if one was chosen. */
  get test() {
    return this.value.startsWith('test:') ? Number(this.value.slice(5)) : null;
  }

  get empty() {
    return !this.value;
  }

  /** Sets the number of test images, the first one shown, and the size limit of uploads. */
  async offer(count, first, limit) {
    [this.#tests, this.#limit] = [count, limit];
    this.#thumbs.hidden = !count;
    if (count) await this.#offerFrom(first);
  }

  async #offerFrom(first) {
    this.#offers += 1;
    const mine = this.#offers;
    const ids = Array.from({ length: Math.min(THUMBS, this.#tests) }, (_, i) => (first + i) % this.#tests);
    const buttons = await Promise.all(ids.map(async (k) => {
      const button = Object.assign(document.createElement('button'), { type: 'button', className: 'thumb' });
      const image = Object.assign(new Image(), { alt: `Test image ${k}`, src: URL.createObjectURL(await getBlob(`/v1/test-images/${k}.png`)) });
      button.append(image);
      button.dataset.k = k;
      button.addEventListener('click', () => this.choose(k));
      return button;
    }));
    if (mine !== this.#offers) {
      for (const button of buttons) URL.revokeObjectURL(button.firstChild.src);
      return;
    }
    this.#thumbs.querySelectorAll('img').forEach((image) => URL.revokeObjectURL(image.src));
    this.#thumbs.replaceChildren(...buttons, diceButton('Other test images', () => this.#offerFrom(Math.floor(Math.random() * this.#tests))));
    this.#mark();
  }

  /** Chooses a test image. */
  choose(k) {
    this.#choice += 1;
    this.#field.value = `test:${k}`;
    this.#show();
    this.#picked();
  }

  /** Chooses a file. */
  async take(file) {
    if (!file) return;
    this.#choice += 1;
    const mine = this.#choice;
    const refuse = (message) => this.#picked({ field: this.#root.dataset.field, message });
    const mega = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
    if (file.size > this.#limit) return refuse(`this file has ${mega(file.size)}; at most ${mega(this.#limit)} can be sent`);
    const body = new FormData();
    body.append('model', this.#field.form.elements.model.value);
    body.append('steps', 1);
    body.append('image', file);
    try {
      const { png } = await postJson('/v1/encode', body);
      if (mine !== this.#choice) return;
      this.#field.value = `png:${toUrl(png)}`;
      this.#show();
      this.#picked();
    } catch (error) {
      if (mine === this.#choice) refuse(error.message);
    }
  }

  /** The picture to send. */
  async blob() {
    if (this.test !== null) return getBlob(`/v1/test-images/${this.test}.png`);
    return this.value.startsWith('png:') ? blobOf(fromUrl(this.value.slice(4))) : null;
  }

  async #show() {
    this.#mark();
    const { value } = this;
    const blob = await this.blob().catch(() => null);
    if (value !== this.value) return;
    this.#preview.hidden = !blob;
    URL.revokeObjectURL(this.#preview.src);
    if (!blob) return;
    this.#preview.src = URL.createObjectURL(blob);
    this.#preview.alt = this.test === null ? 'The picture chosen' : `Test image ${this.test}, chosen`;
  }

  #mark() {
    for (const button of this.#thumbs.querySelectorAll('.thumb')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.k) === this.test));
    }
  }
}

