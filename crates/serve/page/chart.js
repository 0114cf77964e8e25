// A small chart: error against steps, both axes logarithmic.

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 220;
const [LEFT, RIGHT, TOP, BOTTOM] = [58, 14, 12, 34];

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** The powers of ten that enclose all values. */
function decades(values) {
  const [low, high] = [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
  return Array.from({ length: Math.max(1, high - low) + 1 }, (_, i) => low + i);
}

/** A power of ten. */
export const power = (exponent) => `10${[...String(exponent)].map((c) => (c === '-' ? '⁻' : '⁰¹²³⁴⁵⁶⁷⁸⁹'[c])).join('')}`;

/** Draws `points`, `{ x, y }` with y > 0, into a new SVG `width` CSS pixels wide. */
export function chart(points, width, label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute('width', width);
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  const [rows, log] = [decades(points.map((p) => p.y)), Math.log10];
  const [first, last] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  const x = (value) => LEFT + ((log(value) - log(first)) / (log(last) - log(first) || 1)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + ((rows.at(-1) - log(value)) / (rows.at(-1) - rows[0])) * (HEIGHT - TOP - BOTTOM);
  for (const row of rows) {
    add(svg, 'line', { class: 'rule', x1: LEFT, x2: width - RIGHT, y1: y(10 ** row), y2: y(10 ** row) });
    add(svg, 'text', { x: LEFT - 8, y: y(10 ** row) + 4, 'text-anchor': 'end' }, power(row));
  }
  for (const point of points) add(svg, 'text', { x: x(point.x), y: HEIGHT - 14, 'text-anchor': 'middle' }, point.x);
  add(svg, 'polyline', { points: points.map((p) => `${x(p.x).toFixed(1)},${y(p.y).toFixed(1)}`).join(' ') });
  for (const point of points) {
    const mark = add(svg, 'circle', { cx: x(point.x), cy: y(point.y), r: 4 });
    add(mark, 'title', {}, `S = ${point.x}: ${point.y.toExponential(2)}`);
  }
  return svg;
}
