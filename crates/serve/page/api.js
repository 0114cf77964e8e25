// Requests to the server, answered with JSON or events.
//
// Events are read with fetch, because EventSource neither shows the text of an error nor sends a token.

/** An error that the server answered. */
export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error.message);
    Object.assign(this, { status, code: error.code, field: error.field ?? null, retryAfter });
  }
}

const TOKEN = 'skipstone-token';

/** The response if it succeeded. Asks for a token if the server requires one. */
async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError(0, { code: 'unreachable', message: 'the server does not answer; is it still running?' });
    }
    if (response.ok) return response;
    if (response.status === 401) {
      // Another request may have got a token meanwhile.
      if (token === sessionStorage.getItem(TOKEN)) await askToken(token);
      continue;
    }
    const text = await response.text();
    let error;
    try {
      ({ error } = JSON.parse(text));
    } catch {
      error = { code: 'unknown', message: `the server answered ${response.status} ${response.statusText}` };
    }
    throw new ApiError(response.status, error, Number(response.headers.get('Retry-After')) || 0);
  }
}

let asking = null;

/** Asks the visitor for a token, once for all waiting requests. Tells the visitor if `wrong` was the wrong one. */
function askToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById('token');
    const [field, note] = [dialog.querySelector('input'), dialog.querySelector('.error')];
    const say = (message) => {
      note.textContent = message;
      note.hidden = !message;
    };
    // Headers cannot carry other characters.
    const plain = () => /^[\x21-\x7e]+$/.test(field.value.trim());
    say(wrong ? 'This token is wrong.' : '');
    field.value = '';
    dialog.oncancel = (event) => event.preventDefault();
    dialog.querySelector('form').onsubmit = (event) => {
      if (plain()) return;
      event.preventDefault();
      say('A token is one word of ASCII letters, digits and signs.');
    };
    dialog.onclose = () => {
      sessionStorage.setItem(TOKEN, plain() ? field.value.trim() : '');
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

export async function getJson(path) {
  return (await ask(path)).json();
}

export async function getBlob(path) {
  return (await ask(path)).blob();
}

/** Objects become JSON, forms multipart. */
function post(body, accept, signal) {
  const headers = { Accept: accept };
  if (!(body instanceof FormData)) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(body);
  }
  return { method: 'POST', headers, body, signal };
}

export async function postJson(path, body, signal) {
  return (await ask(path, post(body, 'application/json', signal))).json();
}

/** The events of a run, `{ event, data }`. `body` is sent as a `query` or posted. Throws on an `error` event, and if the stream
 *  ends before `done`. */
export async function* events({ path, query }, body, signal) {
  const response = query
    ? await ask(`${path}?${new URLSearchParams(body)}`, { signal })
    : await ask(path, post(body, 'text/event-stream', signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const { event, data } = parse(block);
        if (!data) continue;
        const content = JSON.parse(data);
        if (event === 'error') throw new ApiError(200, content.error ?? content);
        yield { event, data: content };
        if (event === 'done') return;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError(0, { code: 'cut', message: 'the connection ended before the result was there' });
}

/** One event of the stream. Comments keep the connection open and have no data. */
function parse(block) {
  let event = 'message';
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith('event:')) event = line.slice(6).trim();
    if (line.startsWith('data:')) data.push(line.slice(5).trimStart());
  }
  return { event, data: data.join('\n') };
}
