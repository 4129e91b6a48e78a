"use strict";
// Draws what `page.py` wrote; every text goes in as text, never as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const OPERATOR = 0, RESULT = 1, MODULE = 2, LINE = 3, AUTHOR = 4, COLLECTIVE = 5, NANO = 6,
  WIRE = 7, RANKS = 8, INPUTS = 9, GOES = 10; // GOES: before alone; -1 nowhere, -2 computed once
const ROW = 20, BOX = 15, GUTTER = 46, LABEL = 300, BAND = 150, RANK_LANES = 16, TOP = 14;
const main = document.getElementById("main"), tip = document.getElementById("tip");
const filter = document.getElementById("filter"), chooser = document.getElementById("graph");
let graph = DATA.graphs[0];

function make(tag, attributes, ...children) {
  const svg = ["svg", "g", "rect", "path", "text"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}
const word = (row, column) => graph.texts[row[column]];
const short = (operator) => operator.split("::").pop();
const sum = (rows, column) => rows.reduce((total, row) => total + row[column], 0);
const family = (row) => word(row, AUTHOR).split(/[.[]/)[0];
const matches = (module) => module.toLowerCase().includes(filter.value.trim().toLowerCase());

function time(nano) {
  return nano < 1e4 ? `${(nano / 1e3).toFixed(2)} µs` : nano < 1e6 ? `${Math.round(nano / 1e3)} µs`
    : `${(nano / 1e6).toPrecision(3)} ms`;
}
function size(bytes) {
  return bytes < 1024 ? `${Math.round(bytes)} B` : bytes < 2 ** 20 ? `${(bytes / 1024).toFixed(1)} KiB`
    : `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}
function hue(text) { // the same colour for a rule on every page
  let found = 7;
  for (const letter of text) found = (found * 31 + letter.charCodeAt(0)) % 360;
  return found;
}
const colour = (row) => word(row, AUTHOR) ? `hsl(${hue(family(row))} 62% var(--fill))` : "var(--panel)";
const strong = (row) => word(row, AUTHOR) ? `hsl(${hue(family(row))} 55% 50%)` : "var(--line)";

function table(head, rows) {
  const made = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((h) => make("th", {}, h)))));
  const body = make("tbody", {});
  for (const cells of rows) {
    body.append(make("tr", {}, ...cells.map((cell) => cell instanceof Node ? make("td", {}, cell)
      : make("td", typeof cell === "number" ? { class: "number" } : {}, String(cell)))));
  }
  made.append(body);
  return make("div", { class: "scroll" }, made);
}
function bars(before, after, most) {
  const made = make("div", { class: "bars" });
  for (const [kind, nano] of [["before", before], ["after", after]]) {
    made.append(make("div", { class: `bar ${kind}`, style: `width:${(100 * nano / most).toFixed(2)}%`,
      title: `${kind}: ${time(nano)}` }));
  }
  return made;
}
function section(title, ...children) {
  return make("section", { id: title.replaceAll(" ", "-") }, make("h2", {}, title), ...children);
}

// The graphs of a layer: kernels in the order in which they run, arcs for what they read, and
// ribbons from what was there to the kernel that does its work now.
function drawing(layer) {
  const [path, old, made] = layer, before = old.map((n) => graph.before[n]), after = made.map((n) => graph.after[n]);
  const at = new Map(old.map((number, index) => [number, index]));
  const y = positions(old, made);
  const right = GUTTER + LABEL + BAND, width = right + GUTTER + LABEL + 2;
  const height = TOP + ROW * Math.max(before.length, 1) + Math.max(0, (y[y.length - 1] || 0) + ROW - ROW * before.length);
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `kernels of ${path || "the rest"} before and after` });
  const top = (index) => TOP + ROW * index;
  arcs(svg, old, graph.before, (number) => at.has(number) ? top(at.get(number)) : null, GUTTER);
  const places = new Map(made.map((number, index) => [number, TOP + y[index]]));
  arcs(svg, made, graph.after, (number) => places.has(number) ? places.get(number) : null, right + GUTTER);
  const ribbons = make("g", {});
  svg.append(ribbons);
  before.forEach((row, index) => {
    const target = row[GOES];
    if (places.has(target)) {
      const from = top(index) + BOX / 2, to = places.get(target) + BOX / 2, x = GUTTER + LABEL;
      const end = right + GUTTER;
      ribbons.append(make("path", { class: "ribbon", "data-group": target,
        d: `M${x} ${from}C${x + BAND / 2} ${from} ${end - BAND / 2} ${to} ${end} ${to}`,
        stroke: strong(graph.after[target]) }));
    }
    svg.append(kernel(row, GUTTER, top(index), target, target >= 0 ? graph.after[target] : null));
  });
  after.forEach((row, index) => svg.append(kernel(row, right + GUTTER, places.get(made[index]), made[index], row)));
  return svg;
}
function positions(old, made) { // beside the first that each stands for, at least a row apart
  const index = new Map(old.map((number, at) => [number, at])), held = new Map();
  old.forEach((number) => {
    const target = graph.before[number][GOES];
    if (!held.has(target)) held.set(target, []);
    held.get(target).push(index.get(number));
  });
  let next = 0;
  return made.map((number) => {
    const rows = held.get(number) || [], first = rows.length ? ROW * rows[0] : next;
    const found = Math.max(next, first);
    next = found + ROW;
    return found;
  });
}
function arcs(svg, numbers, kernels, place, x) {
  const made = make("g", {});
  for (const number of numbers) {
    for (const input of kernels[number][INPUTS]) {
      const from = place(input), to = place(number);
      if (from === null) continue;
      const bow = Math.min(GUTTER - 6, 6 + (to - from) / 9);
      const a = from + BOX / 2, b = to + BOX / 2;
      made.append(make("path", { class: "edge", d: `M${x} ${a}C${x - bow} ${a} ${x - bow} ${b} ${x} ${b}` }));
    }
  }
  svg.append(made);
}
function kernel(row, x, y, group, owner) {
  const fused = owner && word(owner, AUTHOR), once = group === -2;
  const made = make("g", { class: "kernel", tabindex: 0, "data-group": group, "data-module": word(row, MODULE) });
  const box = { x, y, width: LABEL, height: BOX, rx: 3, stroke: owner ? strong(owner) : "var(--line)",
    fill: owner ? colour(owner) : "var(--panel)" };
  if (once) box["stroke-dasharray"] = "3 2";
  const label = short(word(row, OPERATOR)), result = word(row, RESULT);
  made.append(make("rect", box), make("text", { x: x + 6, y: y + 11.5 }, `${label}  ${result}`.slice(0, 44)));
  if (fused) made.classList.add("fused");
  if (!filterHas(row)) made.classList.add("dim");
  made.info = { row, once };
  return made;
}
const filterHas = (row) => matches(word(row, MODULE));

function tell(target, x, y) {
  const { row, once } = target.info;
  const lines = [
    make("strong", {}, word(row, OPERATOR)), make("div", {}, `${word(row, RESULT)}, ${time(row[NANO])}`),
    make("div", {}, word(row, MODULE) || "no module"), make("code", {}, word(row, LINE) || "no line of the model"),
    word(row, AUTHOR) ? make("div", {}, `put in by ${word(row, AUTHOR)}`) : null,
    once ? make("div", {}, "computed once, not in each run") : null,
    row[WIRE] ? make("div", {}, `${size(row[WIRE])} sent by each of ${row[RANKS]} ranks`) : null,
  ];
  tip.replaceChildren(...lines.filter((line) => line !== null));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 8))}px`;
}
function mark(target, on) {
  const svg = target.ownerSVGElement, group = target.dataset.group;
  if (Number(group) < 0) return;
  svg.querySelectorAll(`[data-group="${group}"]`).forEach((one) => one.classList.toggle("same", on));
}
function over(event) {
  const target = event.target.closest ? event.target.closest("g.kernel") : null;
  if (!target) return;
  const box = target.getBoundingClientRect();
  tell(target, event.clientX ?? box.left, event.clientY ?? box.bottom);
  mark(target, true);
}
function out(event) {
  const target = event.target.closest ? event.target.closest("g.kernel") : null;
  if (!target) return;
  tip.hidden = true;
  mark(target, false);
}

function layerSection() {
  const byPath = new Map(graph.layers.map((layer) => [layer[0], layer]));
  const cost = (layer) => [sum(layer[1].map((n) => graph.before[n]), NANO), sum(layer[2].map((n) => graph.after[n]), NANO)];
  const most = Math.max(1, ...graph.layers.map((layer) => cost(layer)[0]));
  const wanted = (layer) => !filter.value.trim() || [...layer[1].map((n) => graph.before[n]),
    ...layer[2].map((n) => graph.after[n])].some(filterHas);
  const folded = (layer, name) => {
    const [before, after] = cost(layer);
    const made = make("details", { class: "layer" }, make("summary", {}, `${name} `,
      make("span", { class: "counts" }, `${layer[1].length} → ${layer[2].length} kernels, ${time(before)} → ${time(after)}`),
      bars(before, after, most)));
    made.addEventListener("toggle", () => { // drawn when it is looked at
      if (made.open && !made.querySelector("svg")) {
        made.append(standsFor(layer), make("div", { class: "scroll" }, drawing(layer)));
      }
    });
    return made;
  };
  const rows = [];
  let shown = 0;
  for (const [name, paths] of graph.groups) {
    const found = paths.map((path) => byPath.get(path)).filter(wanted);
    shown += found.length;
    if (!found.length) continue;
    if (found.length === 1) {
      rows.push(folded(found[0], found[0][0] || name));
      continue;
    }
    const group = make("details", { class: "group" }, make("summary", {}, `${name} `,
      make("span", { class: "counts" }, `${found.length} layers, ${found[0][1].length} → ${found[0][2].length} kernels each`),
      bars(...cost(found[0]), most)));
    group.addEventListener("toggle", () => {
      if (group.open && !group.querySelector("details")) {
        group.append(...found.map((layer) => folded(layer, layer[0])));
      }
    });
    rows.push(group);
  }
  const all = graph.layers.length;
  document.getElementById("found").textContent = filter.value.trim() ? `${shown} of ${all} layers` : `${all} layers`;
  return section("layers", make("p", { class: "faint" }, "Open a layer for its graph before (left) and after (right): kernels of "
    + "one colour were joined, a broken border means computed once, grey was left as it was. Bars are estimates."), ...rows);
}
function standsFor(layer) { // what each kernel that runs does the work of, as a table
  const held = new Map(layer[2].map((number) => [number, new Map()]));
  for (const row of graph.before) {
    const names = held.get(row[GOES]), name = short(word(row, OPERATOR));
    if (names) names.set(name, (names.get(name) || 0) + 1);
  }
  const counts = (names) => [...names].map(([name, count]) => (count > 1 ? `${count} ${name}` : name)).join(", ");
  const rows = layer[2].filter((number) => filterHas(graph.after[number])).map((number) => {
    const row = graph.after[number];
    return [short(word(row, OPERATOR)), word(row, MODULE), family(row) || "the model", counts(held.get(number)), time(row[NANO])];
  });
  return table(["kernel", "module", "put in by", "does the work of", "estimated"], rows);
}
function costSection() {
  const totals = new Map();
  for (const [side, kernels] of [[0, graph.before], [1, graph.after]]) {
    for (const row of kernels) {
      if (!filterHas(row)) continue;
      const name = word(row, OPERATOR);
      if (!totals.has(name)) totals.set(name, [0, 0, 0, 0]);
      totals.get(name)[side] += row[NANO];
      totals.get(name)[2 + side] += 1;
    }
  }
  const rows = [...totals].sort((a, b) => Math.max(b[1][0], b[1][1]) - Math.max(a[1][0], a[1][1])).slice(0, 14);
  const most = Math.max(1, ...rows.flatMap(([, costs]) => costs.slice(0, 2)));
  return section("costs", table(["operator", "kernels before", "after", "estimated before", "after", ""],
    rows.map(([name, [a, b, n, m]]) => [name, n, m, n ? time(a) : "", m ? time(b) : "", bars(a, b, most)])));
}
function flowSection() {
  const sides = [graph.before, graph.after].map((kernels) => kernels.filter((row) => row[COLLECTIVE]));
  const ranks = Math.max(0, ...sides.flat().map((row) => row[RANKS]));
  if (!ranks) return null;
  const most = Math.max(1, ...sides.map((rows) => sum(rows, WIRE)));
  const lane = (name) => {
    const made = make("div", { class: "lane" }, make("span", {}, name), make("div", {}));
    sides.forEach((rows, side) => {
      const flow = make("div", { class: "flow", title: side ? "after" : "before" });
      const kinds = new Map();
      for (const row of rows) {
        const key = `${word(row, COLLECTIVE)} ${word(row, RESULT).split("[")[0]}`;
        kinds.set(key, (kinds.get(key) || 0) + row[WIRE]);
      }
      for (const [kind, bytes] of kinds) {
        flow.append(make("span", { style: `width:${100 * bytes / most}%;background:hsl(${hue(kind)} 60% var(--fill))`,
          title: `${side ? "after" : "before"}: ${kind}, ${size(bytes)}` }, `${kind} ${size(bytes)}`));
      }
      made.lastChild.append(flow);
    });
    return made;
  };
  const lanes = [];
  for (let rank = 0; rank < Math.min(ranks, RANK_LANES); rank += 1) lanes.push(lane(`rank ${rank}`));
  if (ranks > RANK_LANES) lanes.push(make("p", { class: "faint" }, `ranks ${RANK_LANES} to ${ranks - 1} send as much`));
  return section("bytes by rank", make("p", { class: "faint" }, "What each rank sends in one run, before above after: "
    + `${size(sum(sides[0], WIRE))} → ${size(sum(sides[1], WIRE))}.`), ...lanes);
}
function captureSection() {
  const why = graph.left.filter((row) => row[1] === "capture");
  if (!graph.captures.length && !why.length) return null;
  const strip = make("div", { class: "strip" }, ...graph.captures.map(([kind, rows, count]) => make("span",
    { class: `event ${kind}`, title: `${kind.replace("_", " ")}, ${rows ? `${rows} rows` : "no size"}, ${count} times` },
    `${kind.replace("_", " ")}${rows ? ` ${rows}` : ""}${count > 1 ? ` × ${count}` : ""}`)));
  return section("capture", make("p", { class: "faint" }, "In the order of time; the number behind a word is the captured size."),
    strip, ...why.map((row) => make("p", { class: "bad" }, `${row[4]}${row[3] ? `, at ${row[3]}` : ""}${row[5] ? `; fix: ${row[5]}` : ""}`)));
}
function list(title, texts, kind) {
  return texts.length ? section(title, ...texts.map((text) => make("p", kind ? { class: kind } : {}, text))) : null;
}
function draw() {
  tip.hidden = true;
  const left = graph.left.filter((row) => matches(row[2]));
  const folded = make("details", {}, make("summary", {}, `looked at and left as it is (${graph.looked.length} reasons)`),
    table(["rule or pass", "reason", "places"], graph.looked));
  main.replaceChildren(...[
    make("p", { id: "totals" }, make("strong", {}, "kernels "), graph.totals, graph.plan ? `; for ${graph.plan}` : "", `; ${graph.time}`),
    list("errors", graph.errors, "bad"),
    layerSection(),
    section("fused", table(["family", "fused", "possible"], graph.families.map(([name, n, m]) => [name, n, m]))),
    left.length ? section("left", table(["", "family", "where", "why", "fix"],
      left.map(([n, name, where, line, why, fix]) => [n, name, make("span", { title: line }, where || "an unnamed place"), why, fix]))) : null,
    costSection(), flowSection(), captureSection(),
    graph.once.length ? section("computed once", table(["value", "of", "module", "kept", "kernels spared a run"],
      graph.once.filter((row) => matches(row[2])).map(([name, result, module, bytes, spared]) => [name, result, module, size(bytes), spared]))) : null,
    list("chosen", graph.chosen), list("notes", graph.notes),
    section("time", table(["stage", "seconds"], graph.stages.map(([name, seconds]) => [name, seconds.toFixed(3)]))),
    graph.looked.length ? folded : null,
  ].filter((part) => part !== null));
}

DATA.graphs.forEach((one, index) => chooser.append(make("option", { value: index }, one.name)));
chooser.addEventListener("change", () => { graph = DATA.graphs[Number(chooser.value)]; draw(); });
filter.addEventListener("input", draw);
for (const name of ["mouseover", "focusin"]) main.addEventListener(name, over);
for (const name of ["mouseout", "focusout"]) main.addEventListener(name, out);
const root = document.documentElement, asked = matchMedia("(prefers-color-scheme: dark)");
const paint = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
paint(asked.matches);
asked.addEventListener("change", (event) => paint(event.matches));
document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme !== "dark"));
if (location.hash.startsWith("#module=")) filter.value = decodeURIComponent(location.hash.slice(8));
draw();
