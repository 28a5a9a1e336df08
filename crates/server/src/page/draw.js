// Draws the page. What is to be seen is described with `h`, and `draw` changes the document where it differs from
// the description before. An element that stays keeps its focus, its selection and its scroll position, although
// the page is drawn every second.
//
// Everything that the host sends is hostile: names, errors and backtraces come from whoever wrote the job or its
// input. So text becomes text nodes only, and the attributes that load or run something are refused here.

const SVG = 'http://www.w3.org/2000/svg';
const REFUSED = /^(on.*|style|href|xlink:href|src|srcset|srcdoc|action|formaction)$/i;

/** Element → its description, for the next comparison. */
const drawn = new WeakMap();

/**
 * Describes an element. Of `attributes`, `key` tells it from its siblings, `on` are its event handlers by name and
 * `style` are CSS properties. Children that are `null`, `undefined` or `false` are left out.
 */
export function h(tag, attributes, ...children) {
  const { key, on = {}, style = {}, ...rest } = attributes ?? {};
  for (const name of Object.keys(rest)) {
    if (REFUSED.test(name)) throw new Error(`attribute ${name} is not allowed`);
  }
  const kept = children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== '')
    .map((child) => (typeof child === 'object' ? child : String(child)));
  return { tag, key, on, style, attributes: rest, children: kept };
}

/** Makes the children of `parent` what `children` describe. */
export function draw(parent, ...children) {
  patch(parent, h('', null, ...children).children);
}

function patch(parent, wanted) {
  const keys = new Set(wanted.map((want) => want.key).filter((key) => key !== undefined));
  const keyed = new Map();
  for (const node of [...parent.childNodes]) {
    const key = drawn.get(node)?.key;
    if (key === undefined) continue;
    // A row that is gone goes first: to move the rows after it would take the focus from them.
    if (keys.has(key)) keyed.set(key, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const want of wanted) {
    if (typeof want === 'string') {
      if (at?.nodeType === Node.TEXT_NODE) {
        if (at.data !== want) at.data = want;
        at = at.nextSibling;
      } else {
        parent.insertBefore(document.createTextNode(want), at);
      }
      continue;
    }
    let node = candidate(keyed, at, want);
    if (node === at && node) {
      at = at.nextSibling;
    } else {
      node ??= create(parent, want.tag);
      parent.insertBefore(node, at);
    }
    update(node, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** The element that may become `want`, if there is one. */
function candidate(keyed, at, want) {
  let node = null;
  if (want.key !== undefined) {
    node = keyed.get(want.key) ?? null;
    // Nothing keeps the host from sending the same key twice.
    keyed.delete(want.key);
  } else if (at && at.nodeType === Node.ELEMENT_NODE && drawn.get(at)?.key === undefined) {
    node = at;
  }
  return node?.localName === want.tag ? node : null;
}

function create(parent, tag) {
  const isSvg = tag === 'svg' || parent.namespaceURI === SVG;
  return isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
}

function update(node, want) {
  const was = drawn.get(node) ?? { attributes: {}, on: {}, style: {} };
  for (const name of Object.keys(was.attributes)) {
    if (!(name in want.attributes)) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(want.attributes)) {
    if (was.attributes[name] === value) continue;
    if (value === null || value === undefined || value === false) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  for (const name of Object.keys(was.on)) {
    if (!(name in want.on)) node[`on${name}`] = null;
  }
  for (const [name, handler] of Object.entries(want.on)) node[`on${name}`] = handler;
  for (const [name, value] of Object.entries(want.style)) {
    if (was.style[name] !== value) node.style.setProperty(name, value);
  }
  drawn.set(node, want);
  patch(node, want.children);
}

/** A table in a box of its own: a wide one scrolls there, not with the page. */
export function table({ id, label, heads, rows, data = {} }) {
  return h('div', { class: 'scroll', key: id, tabindex: '0', role: 'region', 'aria-label': label },
    h('table', { id, ...data },
      h('thead', null, h('tr', null, heads.map((head) => {
        const [text, kind] = Array.isArray(head) ? head : [head, ''];
        return h('th', { scope: 'col', class: kind }, text);
      }))),
      h('tbody', null, rows)));
}
