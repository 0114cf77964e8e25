// The page: what the server offers, which tab is open, and the address that holds the state.

import { getJson } from './api.js';
import { compare } from './compare.js';
import { clearErrors, dress, options } from './fields.js';
import { interpolate } from './interpolate.js';
import { address, apply, current, values } from './link.js';
import { reconstruct } from './reconstruct.js';
import { sample } from './sample.js';

const BUILD = { sample, interpolate, reconstruct, compare };
const tabs = new Map();
let open = null;

let writing = 0;
/** The address as last read or written here. If it differs, the visitor is navigating, and it must stay. */
let known = null;

/** Updates the address and the tab's link after its state has changed. */
function changed(id) {
  const tab = tabs.get(id);
  tab.address = address(id, values(tab.runner.form));
  tab.link.href = tab.address;
  if (open !== id) return;
  // Browsers limit how often a page may write its address; dragging would exceed that.
  clearTimeout(writing);
  writing = setTimeout(() => {
    if (location.hash !== known) return;
    history.replaceState(null, '', tab.address);
    known = location.hash;
  }, 120);
}

/** Opens the tab in the address, and runs it unless its result is already shown. */
function route() {
  clearTimeout(writing);
  known = location.hash;
  const params = current();
  const id = tabs.has(params.get('tab')) ? params.get('tab') : 'sample';
  open = id;
  for (const [name, { section, link }] of tabs) {
    section.hidden = name !== id;
    if (name === id) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${tabs.get(id).link.textContent} · skipstone`;
  const { runner, address: before } = tabs.get(id);
  const bare = [...params.keys()].every((key) => key === 'tab');
  if (before && (bare || before === location.hash)) return changed(id);
  const [unknown] = apply(runner.form, params);
  for (const field of own(runner.form)) field.toggleAttribute('data-said', params.get(field.name) === field.value);
  condition(runner);
  if (!unknown) return runner.start();
  runner.stop();
  clearErrors(runner.form);
  runner.fail(unknown);
}

/** Fields whose default depends on the model. Several checkboxes are no such field. */
const own = (form) => ['steps', 'spacing', 'clip'].map((name) => form.elements[name]).filter((field) => field?.type);

/** Offers as guides those models that see the same images as the chosen one. Returns whether there are any. */
function guides({ form, model, models }) {
  const select = form.elements.guide;
  if (!select) return false;
  const alike = (other) => ['channels', 'height', 'width', 'classes', 'timesteps'].every((key) => other[key] === model[key]);
  const fit = models.filter((other) => other !== model && alike(other)).map((other) => other.id);
  for (const option of select.options) option.hidden = option.disabled = option.value !== '' && !fit.includes(option.value);
  if (select.selectedOptions[0]?.disabled) select.value = '';
  return fit.length > 0;
}

/** Fields that only some models have, and their values if neither the address nor the visitor sets them. */
function condition(runner) {
  const { model, form } = runner;
  for (const field of own(form)) {
    const first = model.defaults?.[field.name] ?? field.dataset.first;
    if (!first) continue;
    const value = field.hasAttribute('data-said') ? field.value : first;
    if (field.options) for (const option of field.options) option.defaultSelected = option.value === first;
    else field.defaultValue = first;
    field.value = value;
    field.dispatchEvent(new Event('skip:set'));
  }
  const there = { class: model.classes, guide: guides(runner), guidance: model.guidance || form.elements.guide?.value };
  for (const field of form.querySelectorAll('.conditional')) {
    field.hidden = !there[field.querySelector('[name]').name];
    for (const control of field.querySelectorAll('input,select')) {
      control.disabled = field.hidden;
      control.dispatchEvent(new Event('skip:set'));
    }
  }
  // A single model leaves no choice.
  const alone = runner.models.length === 1;
  for (const part of form.querySelectorAll('.model label, .model select')) part.hidden = alone;
  const words = [
    alone && (model.name ?? model.id),
    model.data && `trained on ${model.data}`,
    `${model.width}×${model.height} ${model.channels === 1 ? 'gray' : 'colour'}`,
    `${(model.parameters / 1e6).toFixed(2)} M parameters`,
    model.device && `computed on ${model.device}${model.precision === 'f32' ? '' : ` in ${model.precision}`}`,
  ];
  form.querySelector('.model .hint').textContent = `${alone ? 'Model: ' : ''}${words.filter(Boolean).join(', ')}`;
  runner.guess();
}

/** Fills a form with what the server offers. */
function furnish(runner, offer) {
  const { form } = runner;
  const { elements } = form;
  const first = offer.models[0].defaults ?? {};
  Object.assign(runner, { models: offer.models, limits: offer.limits });
  options(elements.model, offer.models.map((m) => [m.id, m.name ?? m.id]), offer.models[0].id);
  for (const { name, help, choices } of offer.options) {
    const control = elements[name];
    if (control?.type === 'select-one' && choices.length) options(control, choices, first[name] ?? choices[0]);
    // Several controls of one name, such as radio buttons, share a field.
    (control?.closest?.('.field') ?? form.querySelector(`[data-field="${name}"]`))?.setAttribute('title', help);
  }
  const classes = Math.max(0, ...offer.models.map((m) => m.classes ?? 0));
  if (elements.class) options(elements.class, [['', 'any'], ...Array.from({ length: classes }, (_, k) => String(k))], '');
  for (const [name, most] of Object.entries(offer.limits)) {
    const control = elements[name];
    if (control?.type !== 'number') continue;
    control.max = most;
    // What the page proposes must be allowed.
    if (Number(control.defaultValue) > most) control.defaultValue = most;
  }
  if (elements.guide) options(elements.guide, [['', 'none'], ...offer.models.map((m) => [m.id, m.name ?? m.id])], '');
  dress(form);
  elements.guide?.addEventListener('change', () => {
    // A guide does nothing without a weight.
    if (elements.guide.value && !elements.guidance.value) elements.guidance.value = 2;
    condition(runner);
  });
  elements.model.addEventListener('change', () => condition(runner));
  for (const field of own(form)) {
    if (!field.options) field.dataset.first = field.defaultValue;
    field.addEventListener('change', () => field.setAttribute('data-said', ''));
  }
}

function complain(error) {
  const notice = document.getElementById('notice');
  notice.textContent = `The page cannot start: ${error.message}`;
  notice.hidden = false;
}

async function begin() {
  const offer = await getJson('/v1/models');
  for (const [id, build] of Object.entries(BUILD)) {
    const section = document.getElementById(id);
    const runner = build(section, () => changed(id));
    furnish(runner, offer);
    runner.link = () => new URL(address(id, runner.shown), location.href).href;
    tabs.set(id, { section, runner, link: document.querySelector(`nav [href="#tab=${id}"]`), address: null });
  }
  const tests = await getJson('/v1/test-images').catch(() => ({ available: false }));
  for (const { runner } of tabs.values()) {
    runner.pickers?.forEach((picker, i) => {
      picker.offer(tests.available ? tests.count : 0, 6 * i, offer.limits.upload_bytes).catch(complain);
      // Shows something before a choice, and again after a reset.
      const hidden = runner.form.elements[runner.pickers.length > 1 ? 'images' : 'image'];
      if (tests.available) (hidden[i] ?? hidden).dataset.first = `test:${6 * i}`;
    });
  }
  window.addEventListener('hashchange', route);
  route();
}

begin().catch(complain);
