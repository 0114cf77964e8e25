// The state of a tab is the state of its form, and the address holds it: #tab=sample&steps=20&seed=3.

const controls = (form) => [...form.elements].filter((e) => e.name && e.type !== 'file');

/** The values of a form without disabled fields. Commas join several fields of one name. */
export function values(form) {
  const found = new Map();
  for (const control of controls(form)) {
    if (control.disabled || control.value === '') continue;
    if (/^(radio|checkbox)$/.test(control.type) && !control.checked) continue;
    found.set(control.name, [...(found.get(control.name) ?? []), control.value.trim()]);
  }
  return new Map([...found].map(([name, list]) => [name, list.join(',')]));
}

/**
 * Sets a form to the values in an address. Other fields get their first values, and so do choices that this server does not have;
 * those are returned as `{ field, message }`.
 */
export function apply(form, params) {
  form.reset();
  const all = controls(form);
  // Resetting a form does not reset hidden fields.
  for (const control of all) if (control.type === 'hidden') control.value = control.dataset.first ?? '';
  const lists = new Map([...params].map(([name, value]) => [name, value.split(',')]));
  const unknown = [];
  for (const control of all) {
    const list = lists.get(control.name);
    if (!list) continue;
    if (/^(radio|checkbox)$/.test(control.type)) control.checked = list.includes(control.value);
    else if (all.filter((other) => other.name === control.name).length > 1) control.value = list.shift() ?? control.value;
    else if (control.type !== 'select-one' || [...control.options].some((option) => option.value === params.get(control.name))) {
      control.value = params.get(control.name);
    } else unknown.push({ field: control.name, message: `the link asks for “${params.get(control.name)}”, which this server does not offer` });
  }
  for (const control of all) control.dispatchEvent(new Event('skip:set'));
  return unknown;
}

/** The address of a tab with these values in its form. */
export function address(tab, said) {
  const params = new URLSearchParams({ tab, ...Object.fromEntries(said) });
  // Commas and colons have no meaning in a fragment, and people can read them unescaped.
  return `#${params.toString().replaceAll('%2C', ',').replaceAll('%3A', ':')}`;
}

/** The tab and the values in the address of this page. */
export function current() {
  return new URLSearchParams(location.hash.slice(1));
}
