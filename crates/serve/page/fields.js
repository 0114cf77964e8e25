// Fields of the forms: sliders beside numbers, dice, chips, and errors beside their fields.

/** Adds to every field of a form the controls that its attributes ask for. */
export function dress(form) {
  form.querySelectorAll('.chips').forEach(chips);
  form.querySelectorAll('input[data-values]').forEach(slider);
  form.querySelectorAll('.dice').forEach(dice);
}

/** A slider over a list of useful values. The number beside it takes any value. */
function slider(number) {
  const list = number.dataset.values.split(',').map(Number);
  const range = Object.assign(document.createElement('input'), { type: 'range', min: 0, max: list.length - 1, step: 1 });
  const label = number.labels[0];
  range.setAttribute('aria-label', `${label.textContent}, slider`);
  const follow = () => {
    const value = Number(number.value);
    range.disabled = number.disabled;
    range.max = list.filter((v) => v <= (Number(number.max) || Infinity)).length - 1;
    range.value = list.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(list[best] - value) ? i : best), 0);
    range.setAttribute('aria-valuetext', number.value || 'none');
    fill(range);
  };
  range.addEventListener('input', () => {
    number.value = list[range.value];
    range.setAttribute('aria-valuetext', number.value);
    fill(range);
    number.dispatchEvent(new Event('input', { bubbles: true }));
  });
  range.addEventListener('change', () => number.dispatchEvent(new Event('change', { bubbles: true })));
  number.addEventListener('input', follow);
  number.addEventListener('skip:set', follow);
  number.after(range);
  if (number.dataset.ends) {
    const ends = document.createElement('p');
    ends.className = 'ends';
    ends.append(...number.dataset.ends.split('|').map((text) => Object.assign(document.createElement('span'), { textContent: text })));
    range.after(ends);
  }
  follow();
}

/** Tells the style how far a slider is, for its colour. */
function fill(range) {
  range.style.setProperty('--at', (range.value - range.min) / Math.max(1, range.max - range.min));
}

const DICE = `<svg viewBox="0 0 20 20" aria-hidden="true"><rect x="2.5" y="2.5" width="15" height="15" rx="3.5"/>
<circle cx="7" cy="7" r="1.3"/><circle cx="13" cy="7" r="1.3"/><circle cx="10" cy="10" r="1.3"/>
<circle cx="7" cy="13" r="1.3"/><circle cx="13" cy="13" r="1.3"/></svg>`;

/** A button with a die, for random values. */
export function diceButton(label, onthrow) {
  const button = document.createElement('button');
  Object.assign(button, { type: 'button', className: 'quiet die', innerHTML: DICE, title: label });
  button.setAttribute('aria-label', label);
  button.addEventListener('click', onthrow);
  return button;
}

/** A random seed. */
export const anySeed = () => crypto.getRandomValues(new Uint16Array(1))[0];

function dice(field) {
  const number = field.querySelector('input');
  number.after(diceButton('Another seed', () => {
    number.value = anySeed();
    number.dispatchEvent(new Event('change', { bubbles: true }));
  }));
}

/** Values, several of which can be chosen. */
function chips(box) {
  const checked = box.dataset.checked.split(',');
  for (const value of box.dataset.values.split(',')) {
    const label = document.createElement('label');
    const input = Object.assign(document.createElement('input'), { type: 'checkbox', name: box.dataset.name, value });
    input.defaultChecked = checked.includes(value);
    label.append(input, Object.assign(document.createElement('span'), { textContent: value }));
    box.append(label);
  }
}

/** Fills a select with options, of which `first` is selected. */
export function options(select, names, first) {
  select.replaceChildren(...names.map((name) => {
    const [value, text] = Array.isArray(name) ? name : [name, name];
    return new Option(text, value, value === first, value === first);
  }));
}

/** Removes the errors of all fields. */
export function clearErrors(form) {
  form.querySelectorAll('.field > .error').forEach((p) => p.remove());
  for (const control of form.elements) {
    control.removeAttribute('aria-invalid');
    control.removeAttribute('aria-describedby');
  }
}

/** Shows `message` beside the field called `name`. Returns false if the form has no such visible field. */
export function errorAt(form, name, message) {
  const controls = [...form.elements].filter((e) => e.name === name && e.type !== 'hidden');
  const field = form.querySelector(`[data-field="${CSS.escape(name ?? '')}"]`) ?? controls[0]?.closest('.field');
  if (!field || field.hidden || field.closest('[hidden]')) return false;
  const note = Object.assign(document.createElement('p'), { className: 'error', id: `error-${form.closest('.tab').id}-${name}` });
  note.setAttribute('role', 'alert');
  field.append(note);
  note.textContent = message;
  for (const control of controls) {
    control.setAttribute('aria-invalid', 'true');
    control.setAttribute('aria-describedby', note.id);
  }
  return true;
}

/** The first field without a number, or with one that cannot be written exactly. The server checks everything else. */
export function wrong(form) {
  for (const control of form.elements) {
    if (control.type !== 'number' || control.disabled) continue;
    const kind = control.step === 'any' ? 'a number' : 'a whole number';
    const [empty, most] = [control.validity.badInput || control.validity.valueMissing, Number.MAX_SAFE_INTEGER];
    if (empty) return { field: control.name, message: `${kind} belongs here` };
    if (Math.abs(control.value) > most) return { field: control.name, message: `at most ${most}` };
  }
  return null;
}
