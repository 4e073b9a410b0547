"use strict";
// Draws what raymix/report/page_facts.py computed. All text goes in as text, never as HTML.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A"]; // Okabe and Ito's
const DASHES = [[], [7, 4], [2, 3]]; // beyond seven lines, the same colours dashed
const FIRST_ROWS = 100, MOST_LINES = 21, CHART_HEIGHT = 250, POLL_SECONDS = 2, FEW_DATASETS = 4;

const state = { facts: null, dataset: null, chosen: null, sort: null, descending: false, seeds: false, all: false, search: "", curves: new Map() };
let charts = [];

// Building blocks

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "colour") node.style.background = value; // by CSSOM: style attributes are forbidden by the page's policy
    else if (name === "width") node.style.width = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function short(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
}

function score(value) {
  if (value === null || value === undefined) return "–";
  if (value === "diverged") return value;
  return state.facts.fixed ? value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) : short(value);
}

const interval = (row) => row.low === null ? (row.mean === null ? "–" : "needs 3 seeds") : row.low === row.high ? "seeds equal" : `${score(row.low)} to ${score(row.high)}`;
const whole = (value) => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
const hours = (value) => value === 0 ? "0" : value < 0.01 ? value.toPrecision(2) : value.toLocaleString("en", { maximumFractionDigits: 2 });
const percent = (value) => value === null ? "–" : `${Math.round(100 * value)} %`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const total = Math.round(seconds);
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${String(total % 60).padStart(2, "0")} s`;
  if (total < 172800) return `${Math.floor(total / 3600)} h ${String(Math.floor((total % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.round(total / 86400)} days`;
}

function compare(one, other) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(one) || missing(other)) return missing(one) - missing(other);
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

// Charts: lines with bands, points and whiskers, all by uPlot

function chart(title, spec) {
  const host = el("div", { class: "chart" });
  const style = (number) => ({ colour: COLOURS[number % COLOURS.length], dash: DASHES[Math.floor(number / COLOURS.length) % DASHES.length] });
  const lines = spec.lines.map((line, number) => ({ ...style(number), ...line }));
  const key = el("div", { class: "key" }, lines.filter((line) => line.label && !line.quiet).map((line) => el("span", {}, el("i", { class: "swatch", colour: line.colour }), line.label)));
  const panel = el("div", { class: "panel" }, title ? el("h3", {}, title) : null, host, key.childElementCount > 1 || spec.key ? key : null);
  charts.push({ host, lines, spec, plot: null });
  return panel;
}

function draw(entry) {
  const { host, lines, spec } = entry;
  const banded = lines.map((line) => (line.low || []).some((value) => value !== null));
  const data = uPlot.join(lines.map((line, i) => banded[i] ? [line.x, line.y, line.low, line.high] : [line.x, line.y]));
  const series = [{}], bands = [], main = [];
  lines.forEach((line, i) => {
    main.push(series.length);
    series.push({
      stroke: line.colour, width: line.thin ? 0.8 : 2, dash: line.dash, alpha: line.thin ? 0.55 : 1, spanGaps: true,
      paths: line.scatter ? () => null : spec.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: line.scatter || (!line.thin && line.x.length < 25), size: line.small ? 4 : 6, fill: line.small ? undefined : line.colour, width: 1 },
    });
    if (!banded[i]) return;
    const edge = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, paths: line.scatter ? () => null : spec.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined };
    series.push({ ...edge }, { ...edge });
    if (!line.scatter) bands.push({ series: [series.length - 1, series.length - 2], fill: line.colour + "2e" });
  });
  const axis = { stroke: ink("--quiet"), grid: { stroke: ink("--line"), width: 0.5 }, ticks: { stroke: ink("--line"), width: 0.5 }, font: "11px system-ui", labelFont: "12px system-ui", labelSize: 18 };
  const categories = spec.categories, places = spec.places;
  const words = categories ? categories.join("").length : 0, rotated = words > 36;
  const xs = lines.flatMap((line) => line.x), low = Math.min(...ends(xs)), high = Math.max(...ends(xs));
  const logarithmic = spec.logarithmic && low > 0 && high >= 50 * low;
  const pad = categories ? 0.6 : logarithmic ? Math.pow(high / low, 0.04) : (high - low || Math.abs(high) || 1) * 0.03;
  const bounds = logarithmic ? [low / pad, high * pad] : [low - pad, high + pad];
  const tip = el("div", { class: "tip", hidden: true });
  const plot = new uPlot({
    width: Math.max(200, host.clientWidth), height: CHART_HEIGHT + (rotated ? 40 : 0), series, bands,
    legend: { show: false },
    scales: { x: { time: false, distr: logarithmic ? 3 : 1, range: (u, min, max) => (u.zoomed ? [min, max] : bounds) } },
    axes: [
      {
        ...axis, label: spec.xLabel, space: 55, size: rotated ? 80 : 36, rotate: rotated ? -30 : 0,
        ...(categories ? { splits: () => categories.map((_, i) => i), values: () => categories }
          : places && places.length <= 8 ? { splits: () => places, values: () => places.map(short), filter: (u, splits) => splits }
            : { values: (u, splits) => splits.map((v) => (v === null ? "" : compact(v))), ...(logarithmic ? { splits: (u, axisNumber, min, max) => decades(min, max), filter: (u, splits) => splits } : {}) }),
      },
      { ...axis, label: spec.yLabel, size: 56, values: (u, splits) => splits.map((v) => (v === null ? "" : compact(v))) },
    ],
    cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false }, dataIdx: (u, side, at) => nearest(u, u.data[side], at) },
    hooks: {
      setCursor: [(u) => tell(u, tip, lines, main, banded, spec)],
      setSelect: [(u) => { u.zoomed = u.select.width > 0; }],
      draw: [(u) => lines.forEach((line, i) => line.scatter && banded[i] && whiskers(u, line))],
    },
  }, data, host);
  plot.over.addEventListener("dblclick", () => { plot.zoomed = false; plot.setScale("x", { min: bounds[0], max: bounds[1] }); });
  plot.over.append(tip);
  entry.plot = plot;
  host.setAttribute("role", "img");
  host.setAttribute("aria-label", `${spec.yLabel} against ${spec.xLabel}`);
}

// Not uPlot's own: those of version 1.6.32 do not end for some bounds, such as 0.0985 to 107.
function decades(low, high) {
  const found = [], first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  for (let power = first; power <= last; power++) {
    for (const digit of last - first > 3 ? [1] : [1, 2, 5]) {
      const value = Number(`${digit}e${power}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function ends(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  return [low, high];
}

function compact(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${short(value / 1e6)}M`;
  if (size >= 1e4) return `${short(value / 1e3)}k`;
  return short(value);
}

function nearest(u, values, at) {
  for (let away = 0; away < values.length; away++) {
    for (const place of [at - away, at + away]) if (values[place] !== null && values[place] !== undefined) return place;
  }
  return at;
}

function whiskers(u, line) {
  const { ctx } = u, ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = line.colour;
  ctx.lineWidth = 1.5 * ratio;
  line.x.forEach((x, i) => {
    if (line.low[i] === null) return;
    const at = u.valToPos(x, "x", true);
    ctx.beginPath();
    ctx.moveTo(at, u.valToPos(line.low[i], "y", true));
    ctx.lineTo(at, u.valToPos(line.high[i], "y", true));
    ctx.stroke();
  });
  ctx.restore();
}

function tell(u, tip, lines, main, banded, spec) {
  const { left, top, idx } = u.cursor;
  tip.hidden = idx === null || idx === undefined || left < 0;
  if (tip.hidden) return;
  const at = (i) => u.cursor.idxs[main[i]], shown = lines.map((_, i) => i).filter((i) => lines[i].label && !lines[i].thin);
  const x = u.data[0][idx];
  const head = spec.categories ? spec.categories[Math.round(x)] : `${short(x)} ${spec.xUnit || ""}`;
  const text = shown.filter((i) => at(i) !== null && u.data[main[i]][at(i)] !== undefined && u.data[main[i]][at(i)] !== null).map((i) => {
    const low = banded[i] ? u.data[main[i] + 1][at(i)] : null, high = banded[i] ? u.data[main[i] + 2][at(i)] : null;
    const more = lines[i].tell ? ` ${lines[i].tell(u.data[0][at(i)])}` : "";
    return el("div", {}, el("i", { class: "swatch", colour: lines[i].colour }), `${lines[i].label}: ${short(u.data[main[i]][at(i)])}${low === null || low === undefined ? "" : ` (${short(low)} to ${short(high)})`}${more}`);
  });
  tip.replaceChildren(el("b", {}, head), ...text);
  const right = left > u.over.clientWidth / 2;
  tip.style.left = right ? "" : `${left + 12}px`;
  tip.style.right = right ? `${u.over.clientWidth - left + 12}px` : "";
  tip.style.top = `${Math.max(0, Math.min(top, u.over.clientHeight - 60))}px`;
}

const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const entry = charts.find((one) => one.host === target);
    if (entry && entry.plot && contentRect.width > 0) entry.plot.setSize({ width: Math.max(200, contentRect.width), height: entry.plot.height });
  }
});

// Off the screen nothing is drawn until it is scrolled to: a page of many data sets opens at once.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const entry = isIntersecting && charts.find((one) => one.host === target);
    if (entry && !entry.plot) { draw(entry); resized.observe(target); }
  }
}, { rootMargin: "300px" });

function place(section, ...content) {
  const node = document.getElementById(section);
  for (const entry of charts.filter((one) => node.contains(one.host))) { if (entry.plot) entry.plot.destroy(); seen.unobserve(entry.host); resized.unobserve(entry.host); }
  charts = charts.filter((one) => !node.contains(one.host));
  node.replaceChildren(...content.flat().filter((child) => child !== null));
  for (const entry of charts) if (node.contains(entry.host)) { entry.host.style.minHeight = `${CHART_HEIGHT}px`; seen.observe(entry.host); }
}

// Sections

const heading = (title, caption) => [el("h2", {}, title), caption ? el("p", { class: "caption" }, caption) : null];
const datasets = () => [...new Set(state.facts.rows.map((row) => row.dataset))].sort(compare);
const shownDatasets = () => state.dataset === null ? datasets() : [state.dataset];
const here = (items) => items.filter((item) => item.dataset === null || shownDatasets().includes(item.dataset));
const rowOf = (id) => state.byId.get(id);

function sectionHeader() {
  const { facts } = state;
  const said = [facts.metric, facts.select, facts.newest ? `newest result ${facts.newest}` : null].filter(Boolean).join(" · ");
  place("top",
    el("h1", {}, facts.runs.length ? facts.runs.join(", ") : "no runs"),
    el("p", { class: "quiet" }, said),
    facts.progress ? el("p", { id: "progress" }) : null,
    facts.notices.length ? el("ul", { class: "notices" }, facts.notices.slice(0, 20).map((line) => el("li", {}, line)), facts.notices.length > 20 ? el("li", {}, `and ${facts.notices.length - 20} more`) : null) : null,
    datasets().length > 1 ? el("nav", {}, el("label", {}, "Data set ", el("select", { id: "dataset", onchange: (event) => { state.dataset = event.target.value === "" ? null : event.target.value; sections(); } },
      el("option", { value: "", selected: state.dataset === null }, "all"),
      datasets().map((name) => el("option", { value: name, selected: state.dataset === name }, name))))) : null);
}

// What changes with the clock alone is changed in place.
function tick() {
  const { facts } = state, node = document.getElementById("progress");
  if (!facts || !node) return;
  const { done, trials, over, training, speed, left, newest, patience } = facts.progress;
  const quiet = newest === null ? null : facts.now - newest;
  const said = [`${Math.floor(100 * done)} % done`, `${over} of ${trials} trials ended`];
  if (over < trials && quiet !== null && quiet > patience) said.push(`no report for ${duration(quiet)}: nothing seems to train`);
  else if (over < trials) said.push(`${training} report`, `${whole(speed)} agent-steps/s`, left === null ? "time left: not known yet" : `about ${duration(left)} left`);
  node.replaceChildren(meter(done), said.join(" · "));
  for (const cell of document.querySelectorAll("[data-reported]")) cell.textContent = `${duration(Math.max(0, facts.now - Number(cell.dataset.reported)))} ago`;
}

function sectionDecision() {
  const { facts } = state;
  const lines = here(facts.decisions).map((one) => {
    const best = one.best ? rowOf(one.best) : null, second = one.second ? rowOf(one.second) : null;
    const gap = second === null ? "there is no second" : `${one.gap >= 0 ? "+" : ""}${score(one.gap)} to ${second.label}` + (one.gap_low === null || one.gap_low === undefined ? " (an interval needs 3 seeds)" : one.gap_low === one.gap_high ? " (all seeds differ alike, which is no interval)" : ` (95 %: ${score(one.gap_low)} to ${score(one.gap_high)})`);
    const sure = second === null ? "–" : (one.certain ? "sure: the interval leaves out 0" : "not sure: the two cannot be told apart") + (one.unfinished ? ", so far" : "");
    return el("tr", {},
      el("td", { class: "name" }, one.dataset),
      el("td", { class: "name" }, best ? el("b", {}, best.label) : "no scores yet", best && best.status !== "done" ? ` (${best.status})` : null, best && best.diverged ? ` (${best.diverged} of ${best.seeds} seeds diverged)` : null),
      el("td", { class: "number" }, best ? score(best.mean) : "–"),
      el("td", { class: "number" }, best ? interval(best) : "–"),
      el("td", {}, gap),
      el("td", { class: second === null ? "" : one.certain ? "sure" : "unsure" }, sure),
      el("td", { class: "number" }, hours(one.hours)),
      el("td", { class: "number" }, `${one.configurations}${one.unfinished ? ` (${one.unfinished} unfinished)` : ""}`));
  });
  place("decision",
    heading("Decision", `The best mean over seeds of ${facts.metric}, among finished configurations without diverged seeds where there are any. The best of many looks better than it is, since it was chosen by the scores that are shown; seeds that chose nothing would tell.`),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["data set", "best configuration", "mean", "95 % interval", "difference to the second", "how sure", "agent-hours", "configurations"].map((name) => el("th", {}, name)))), el("tbody", {}, lines))),
    el("p", { class: "caption" }, "Agent-hours: device time of all seeds of all configurations, shared fairly among those that trained as one program."));
}

const meter = (share) => el("span", { class: "bar progress" }, el("i", { width: `${100 * (share || 0)}%` }));

function columns() {
  const { facts } = state;
  const several = (name) => new Set(facts.rows.map((row) => row[name])).size > 1;
  const now = facts.now;
  const list = [];
  if (several("dataset")) list.push({ name: "data set", of: (row) => row.dataset, word: true });
  if (several("algorithm") || !facts.swept.length) list.push({ name: "algorithm", of: (row) => row.algorithm, word: true });
  facts.swept.forEach((name, i) => list.push({ name, of: (row) => row.fields[i], show: (row) => (typeof row.fields[i] === "number" ? short(row.fields[i]) : row.fields[i] === null ? "–" : String(row.fields[i])), plain: true, number: facts.rows.every((row) => row.fields[i] === null || typeof row.fields[i] === "number") }));
  const numbers = (row) => row.scores.filter((one) => typeof one === "number");
  list.push({ name: "score per seed", of: (row) => row.mean, show: (row) => (row.scores.length > 10 && numbers(row).length ? `${row.scores.length} seeds, ${score(ends(numbers(row))[0])} to ${score(ends(numbers(row))[1])}` : row.scores.map((one) => (one === null ? "…" : score(one))).join("  ")), plain: true });
  list.push({ name: "mean", of: (row) => row.mean, show: (row) => score(row.mean), number: true });
  list.push({ name: "IQM", of: (row) => row.iqm, show: (row) => score(row.iqm), number: true });
  list.push({ name: "95 % interval", of: (row) => row.low, show: interval, number: true });
  list.push({ name: "std", of: (row) => row.std, show: (row) => score(row.std), number: true });
  list.push({ name: "seeds", of: (row) => row.seeds, show: (row) => (row.lacking.length ? `${row.seeds} of ${row.seeds + row.lacking.length}` : String(row.seeds)), number: true });
  if (facts.rows.some((row) => row.diverged)) list.push({ name: "diverged", of: (row) => row.diverged, number: true });
  list.push({ name: "agent-hours", of: (row) => row.hours, show: (row) => hours(row.hours), number: true });
  if (facts.rows.some((row) => row.front)) list.push({ name: "Pareto front", of: (row) => (row.front ? 0 : 1), show: (row) => (row.front ? "yes" : ""), word: true });
  if (facts.baseline) {
    list.push({ name: `difference from ${facts.baseline}`, of: (row) => row.difference && row.difference[0], show: (row) => (row.difference ? `${score(row.difference[0])}${row.difference[1] === null ? "" : ` (${score(row.difference[1])} to ${score(row.difference[2])})`}` : "–"), number: true });
    list.push({ name: "probability of improvement", of: (row) => row.improvement, show: (row) => (row.improvement === null ? "–" : row.improvement.toFixed(2)), number: true });
  }
  list.push({ name: "status", of: (row) => row.status, show: (row) => (row.status === "unfinished" && row.phase ? `unfinished, in phase ${row.phase}` : row.status), word: true });
  list.push({ name: "step", of: (row) => row.step, show: (row) => whole(row.step), number: true });
  if (state.live) {
    list.push({ name: "progress", of: (row) => row.progress, show: (row) => [meter(row.progress), percent(row.progress)], plain: true });
    list.push({ name: "agent-steps/s", of: (row) => row.speed, show: (row) => whole(row.speed), number: true });
    const reports = (row) => row.patience !== null && now - row.reported <= row.patience;
    list.push({ name: "time left", of: (row) => (reports(row) ? row.left : null), show: (row) => (reports(row) ? duration(row.left) : "–"), number: true });
    list.push({ name: "last report", of: (row) => (row.reported === null ? null : now - row.reported), show: (row) => (row.reported === null ? "–" : el("span", { "data-reported": row.reported })), number: true });
    if (facts.rows.some((row) => row.attempts > 1)) list.push({ name: "starts", of: (row) => row.attempts, number: true });
  }
  list.push({ name: "configuration", of: (row) => row.id, plain: true });
  return list;
}

function sectionTable() {
  const { facts } = state, list = columns();
  const wanted = state.search.trim().toLowerCase();
  let rows = here(facts.rows).filter((row) => !wanted || [row.dataset, row.label, row.status, row.id].some((text) => text.toLowerCase().includes(wanted)));
  const by = list.find((column) => column.name === state.sort);
  if (by) {
    const sign = state.descending ? -1 : 1;
    const missing = (row) => { const value = by.of(row); return value === null || value === undefined; };
    rows = [...rows].sort((a, b) => missing(a) - missing(b) || sign * compare(by.of(a), by.of(b)) || compare(a.id, b.id));
  }
  const shown = state.all ? rows : rows.slice(0, FIRST_ROWS);
  const best = new Set(facts.decisions.map((one) => one.best));
  const colours = colourOf();
  const head = el("tr", {}, el("th", { title: "draw its learning curve" }, "draw"), list.map((column) => el("th", { class: column.number ? "number" : "", "aria-sort": state.sort === column.name ? (state.descending ? "descending" : "ascending") : "none" },
    el("button", { onclick: () => { state.descending = state.sort === column.name ? !state.descending : Boolean(column.number) && !facts.swept.includes(column.name); state.sort = column.name; sectionTable(); } }, column.name))));
  // Sorting moves the lines that there are: making a thousand takes longer than anything else here.
  const chosen = [...state.chosen].join();
  if (state.linesOf !== facts || state.linesWith !== chosen) Object.assign(state, { linesOf: facts, linesWith: chosen, lines: new Map() });
  const line = (row) => state.lines.get(row.id) || state.lines.set(row.id, tableLine(row, list, best, colours)).get(row.id);
  const body = shown.map(line);
  const focus = document.activeElement && document.activeElement.id === "search";
  const before = document.querySelector("#table .tall"), scrolled = before && [before.scrollTop, before.scrollLeft];
  place("table",
    heading("Configurations", "Click a heading to sort. Bold: the best of its data set. Diverged seeds are counted, and are in no other number."),
    el("nav", {}, el("input", { type: "search", id: "search", placeholder: "filter", "aria-label": "filter", value: state.search, oninput: (event) => { state.search = event.target.value; sectionTable(); } }), el("span", { class: "quiet", id: "rows" }, `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} configurations`), shown.length < rows.length ? el("button", { id: "all", onclick: () => { state.all = true; sectionTable(); } }, `show all ${rows.length.toLocaleString("en")}`) : null),
    el("div", { class: "scroll tall", tabindex: "0" }, el("table", { id: "configurations" }, el("thead", {}, head), el("tbody", {}, body))));
  if (scrolled) document.querySelector("#table .tall").scrollTo(scrolled[1], scrolled[0]);
  if (state.live) tick();
  if (focus) { const field = document.getElementById("search"); field.focus(); field.setSelectionRange(field.value.length, field.value.length); }
}

function tableLine(row, list, best, colours) {
  return el("tr", { class: best.has(row.id) ? "best" : "", "data-id": row.id },
    el("td", {}, el("input", { type: "checkbox", checked: state.chosen.has(row.id), disabled: row.step === null, "aria-label": `draw ${row.label}`, onchange: (event) => choose(row.id, event.target.checked) }), colours.has(row.id) ? el("i", { class: "swatch", colour: colours.get(row.id).colour }) : null),
    list.map((column) => { const value = column.show ? column.show(row) : column.of(row); return el("td", { class: column.number ? "number" : column.word ? "name" : column.plain ? "plain" : "", title: column.number && typeof column.of(row) === "number" ? column.of(row) : null }, typeof value === "number" ? String(value) : value); }));
}

function firstChosen() {
  const { facts } = state, chosen = new Set();
  for (const name of datasets()) {
    const best = facts.best.map(rowOf).filter((row) => row.dataset === name);
    const algorithms = new Set(best.map((row) => row.algorithm));
    const wanted = algorithms.size > 1 ? [...algorithms].map((algorithm) => best.find((row) => row.algorithm === algorithm)) : best.slice(0, 5);
    wanted.slice(0, COLOURS.length).forEach((row) => chosen.add(row.id));
  }
  return chosen;
}

function colourOf() {
  const map = new Map();
  for (const name of datasets()) {
    [...state.chosen].map(rowOf).filter((row) => row && row.dataset === name).forEach((row, number) => map.set(row.id, { colour: COLOURS[number % COLOURS.length], dash: DASHES[Math.floor(number / COLOURS.length) % DASHES.length] }));
  }
  return map;
}

function choose(id, wanted) {
  state.picked = true;
  if (wanted) state.chosen.add(id); else state.chosen.delete(id);
  const focused = id;
  sectionTable();
  const again = document.querySelector(`tr[data-id="${CSS.escape(focused)}"] input`);
  if (again) again.focus();
  sectionCurves();
}

async function sectionCurves() {
  const { facts } = state, colours = colourOf();
  const chosen = [...state.chosen].filter((id) => rowOf(id) && shownDatasets().includes(rowOf(id).dataset));
  const curves = await curvesOf(chosen.slice(0, MOST_LINES * shownDatasets().length));
  const panels = shownDatasets().map((name) => {
    const ids = chosen.filter((id) => rowOf(id).dataset === name && curves.get(id)).slice(0, MOST_LINES);
    if (!ids.length) return null;
    const lines = ids.map((id) => ({ ...colours.get(id), label: rowOf(id).label, ...curves.get(id), y: curves.get(id).mean }));
    if (state.seeds) for (const id of ids) for (const scores of Object.values(curves.get(id).seeds || {})) lines.push({ ...colours.get(id), x: curves.get(id).x, y: scores, thin: true, quiet: true });
    return chart(name, { lines, xLabel: "gradient steps of the last phase", xUnit: "steps", yLabel: facts.metric, key: true });
  });
  const without = chosen.filter((id) => curves.get(id) && !curves.get(id).seeds).length;
  const thinned = facts.curves && facts.curves.every > 1 ? ` Every ${facts.curves.every}th evaluation is shown.` : "";
  place("curves",
    heading("Learning curves", `Lines: mean over seeds; bands: 95 % Student-t interval at each evaluation, for 3 seeds or more. Drag to zoom, double-click to return.${thinned}`),
    el("nav", {}, el("label", {}, el("input", { type: "checkbox", id: "seeds", checked: state.seeds, onchange: (event) => { state.seeds = event.target.checked; sectionCurves(); } }), " each seed as a thin line"), state.seeds && without ? el("span", { class: "quiet" }, `${without} of these have no single seeds in this page, which keeps those of the best ${facts.curves.with_seeds}`) : null),
    el("div", { class: "panels" }, panels));
}

async function curvesOf(ids) {
  const { facts } = state;
  if (facts.curves) return new Map(ids.map((id) => [id, facts.curves.of[id]]));
  const wanted = ids.filter((id) => { const known = state.curves.get(id), row = rowOf(id); return row.reported !== null && !(known && known.reported === row.reported); });
  if (wanted.length) {
    const found = await ask("api/curves", { run: state.run, id: wanted });
    for (const [id, own] of Object.entries(found)) state.curves.set(id, { ...own, reported: rowOf(id) ? rowOf(id).reported : null });
  }
  return new Map(ids.map((id) => [id, state.curves.get(id)]));
}

function sectionEffects() {
  const { facts } = state, found = here(facts.effects);
  const panels = [];
  for (const key of new Set(found.map((one) => JSON.stringify([one.dataset, one.field])))) {
    const [dataset, field] = JSON.parse(key);
    const of = found.filter((one) => one.dataset === dataset && one.field === field);
    const numeric = of.every((one) => one.numeric), values = [...new Set(of.flatMap((one) => one.values))].sort(compare);
    const at = (value) => (numeric ? value : values.indexOf(value));
    const lines = of.map((one) => ({ label: one.algorithm, x: one.values.map(at), y: one.mean, low: one.low, high: one.high, scatter: !numeric, tell: (x) => { const count = one.counts[one.values.map(at).indexOf(x)]; return count > 1 ? `· ${count} configurations` : ""; } }));
    const clouds = numeric ? of.map((one, number) => { const points = [...one.points].sort((a, b) => a[0] - b[0]); return { colour: COLOURS[number % COLOURS.length], x: spread(points.map((p) => p[0])), y: points.map((p) => p[1]), scatter: true, small: true, quiet: true }; }).filter((cloud, number) => of[number].points.length > of[number].values.length) : [];
    const binned = of.some((one) => one.binned);
    const algorithms = new Set(facts.rows.map((row) => row.algorithm)).size;
    panels.push(chart([field, ...(algorithms > 1 && of.length === 1 ? [of[0].algorithm] : []), ...(datasets().length > 1 ? [dataset] : [])].join(" · "), { lines: [...lines, ...clouds], xLabel: binned ? `${field} (binned to equal shares)` : field, yLabel: facts.metric, logarithmic: numeric, places: numeric && !binned ? values : null, categories: numeric ? null : values.map(String) }));
  }
  const silent = facts.sentences.filter((line) => /nothing can be said of|too many to compare/.test(line));
  const told = facts.sentences.filter((line) => !silent.includes(line));
  if (!panels.length) return place("effects");
  place("effects",
    heading("Hyperparameters", "Large: mean over the configurations that share the value and were not stopped early, its band (or whisker) the 95 % interval over seeds of that mean. Small: single configurations."),
    el("div", { class: "panels" }, panels),
    told.length ? el("ul", {}, told.map((line) => el("li", {}, line))) : null,
    silent.length ? el("details", {}, el("summary", {}, `Nothing can be said of ${silent.length} more`), el("ul", {}, silent.map((line) => el("li", {}, line)))) : null);
}

// uPlot wants each place once, in order: equal ones move by less than a pixel shows.
function spread(values) {
  let before = -Infinity;
  return values.map((value) => { before = value > before ? value : before + Math.max(Math.abs(before) * 1e-9, 1e-300); return before; });
}

// Cividis, which looks the same to people with any colour vision, at nine places.
const CIVIDIS = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [254, 232, 56]];

function cividis(share) {
  const at = Math.max(0, Math.min(0.9999, share)) * (CIVIDIS.length - 1), low = Math.floor(at);
  return CIVIDIS[low].map((value, i) => Math.round(value + (at - low) * (CIVIDIS[low + 1][i] - value)));
}

function sectionMaps() {
  const { facts } = state, found = here(facts.maps);
  if (!found.length) return place("maps");
  const panels = found.map((map) => {
    const [low, high] = ends(map.mean.flat().filter((value) => value !== null));
    const cells = (line, r) => line.map((value, c) => {
      if (value === null) return el("td", {}, "–");
      const rgb = cividis(high > low ? (value - low) / (high - low) : 0.5);
      const cell = el("td", { colour: `rgb(${rgb.join(",")})` }, short(value), map.counts[r][c] > 1 ? el("small", {}, `of ${map.counts[r][c]}`) : null);
      cell.style.color = rgb[0] * 0.3 + rgb[1] * 0.59 + rgb[2] * 0.11 > 125 ? "#000" : "#fff";
      return cell;
    });
    return el("div", { class: "panel" }, el("h3", {}, `${map.algorithm}${datasets().length > 1 ? ` · ${map.dataset}` : ""}`),
      el("div", { class: "scroll" }, el("table", { class: "map" },
        el("thead", {}, el("tr", {}, el("th", {}, `${map.fields[0]} ↓  ${map.fields[1]} →`), map.columns.map((value) => el("th", {}, short(value))))),
        el("tbody", {}, map.mean.map((line, r) => el("tr", {}, el("th", {}, short(map.rows[r])), cells(line, r)))))));
  });
  place("maps", heading("Two hyperparameters at once", `Mean ${facts.metric} of the configurations in each cell (“of n”: how many). Numbers with many values are binned to equal shares; the heading is the bin's mean.`), el("div", { class: "panels" }, panels));
}

function sectionImportance() {
  const found = here(state.facts.importance), told = found.filter((one) => one.shares !== null), silent = found.filter((one) => one.shares === null);
  const title = (one) => `${one.algorithm}${datasets().length > 1 ? ` · ${one.dataset}` : ""}`;
  const shares = (one) => Object.entries(one.shares).flatMap(([name, share]) => [el("span", {}, name), el("div", { class: "bar" }, el("i", { width: `${100 * share}%` })), el("span", {}, share.toFixed(2))]);
  place("importance", found.length ? heading("Importance", "Share of the variance of the finished configurations' scores that each hyperparameter explains over the range that was searched, by Optuna's fANOVA (a random forest). The rest is what they explain together. It says nothing beyond that range.") : null,
    el("div", { class: "panels" }, told.map((one) => el("div", { class: "panel" }, el("h3", {}, title(one)), el("div", { class: "share" }, shares(one)), one.conditional.length ? el("p", { class: "quiet" }, `Without ${one.conditional.join(", ")}, which not all configurations have.`) : null))),
    silent.length ? el("ul", { class: "quiet" }, silent.map((one) => el("li", {}, `${title(one)}: not told, as ${one.why}.`))) : null);
}

function sectionAggregate() {
  const { facts } = state, found = facts.aggregate;
  if (!found.length) return place("aggregate");
  const names = ["algorithm", ...facts.swept, "data sets", "runs", "IQM", "95 % interval"];
  place("aggregate", heading("Over all data sets", "Interquartile mean of all runs of what was run on every data set, a diverged seed counting as worse than any score. An interval (stratified bootstrap) needs 5 data sets and 20 runs more than those."),
    el("div", { class: "scroll tall" }, el("table", { id: "aggregates" }, el("thead", {}, el("tr", {}, names.map((name) => el("th", {}, name)))),
      el("tbody", {}, found.slice(0, FIRST_ROWS).map((one) => el("tr", {}, el("td", {}, one.algorithm), one.fields.map((value) => el("td", {}, short(value))), el("td", { class: "number" }, one.tasks), el("td", { class: "number" }, one.runs), el("td", { class: "number" }, score(one.iqm)), el("td", { class: "number" }, one.low === null ? "–" : `${score(one.low)} to ${score(one.high)}`)))))),
    found.length > FIRST_ROWS ? el("p", { class: "quiet" }, `The best ${FIRST_ROWS} of ${found.length}.`) : null);
}

function sectionProfiles() {
  const { facts } = state, found = here(facts.profiles);
  if (!found.length) return place("profiles");
  place("profiles", heading("Performance profiles", `Share of seeds that score above each ${facts.higher ? "" : "(below, as less is better) "}threshold; higher is better everywhere. A diverged seed is above none.`),
    el("div", { class: "panels" }, found.map((one) => chart(one.dataset === null ? `all ${one.over} data sets` : one.dataset, { lines: one.lines.map((line) => ({ label: line.label, x: one.x, y: line.y })), stepped: true, xLabel: `threshold, ${facts.metric}`, yLabel: "share of seeds above" }))));
}

function sectionOnline() {
  const { facts } = state, found = here(facts.online);
  if (!found.length) return place("online");
  place("online", heading("Expected online performance", "Expected score of what is deployed after n of the configurations, drawn by chance, were tried with one seed each: the best by that seed, scored by the others."),
    el("div", { class: "panels" }, [...new Set(found.map((one) => one.dataset))].map((name) => {
      const of = found.filter((one) => one.dataset === name);
      return chart(name, { lines: of.map((one) => ({ label: `${one.algorithm} (${one.configurations} configurations)`, x: one.n, y: one.score })), xLabel: "configurations tried, n", yLabel: facts.metric, logarithmic: true, places: [...new Set(of.flatMap((one) => one.n))].sort(compare), key: true });
    })));
}

function sectionCost() {
  const { facts } = state, found = here(facts.cost);
  if (!found.length) return place("cost");
  place("cost", heading("Best found against cost", "The best configuration so far, in the order in which they ended; band: its 95 % interval over seeds. Cost counts all that ended, also what diverged or was stopped early."),
    el("div", { class: "panels" }, found.map((one) => chart(one.dataset, { lines: [{ label: "best so far", x: spread(one.hours), y: one.best, low: one.low, high: one.high, tell: (x) => `· ${one.label[spread(one.hours).indexOf(x)]}` }], stepped: true, xLabel: "agent-hours", xUnit: "agent-hours", yLabel: facts.metric }))));
}

function sectionPrograms() {
  const found = state.facts.programs || [];
  if (!found.length) return place("programs");
  place("programs", heading("Programs", "Trials of one structure train together, as one compiled program each seat of which is one seed. Speed: agent-steps per second of those that report."),
    el("div", { class: "scroll" }, el("table", { id: "packs" }, el("thead", {}, el("tr", {}, ["program", "data set", "seats", "trials", "under way", "done", "agent-steps/s", "agent-hours"].map((name) => el("th", {}, name)))),
      el("tbody", {}, found.map((one) => el("tr", {}, el("td", {}, one.pack), el("td", {}, one.dataset), el("td", { class: "number" }, short(one.seats)), el("td", { class: "number" }, one.trials), el("td", { class: "number" }, one.training), el("td", { class: "number" }, one.over), el("td", { class: "number" }, one.training ? whole(one.speed) : "–"), el("td", { class: "number" }, hours(one.hours))))))));
}

const PARTS = {
  top: [sectionHeader, (f) => [f.runs, f.newest, f.notices, datasets()]],
  decision: [sectionDecision, (f) => f.decisions.map((one) => [one, rowOf(one.best), rowOf(one.second)])],
  table: [sectionTable, (f) => [f.rows, state.chosen && [...state.chosen]]],
  programs: [sectionPrograms, (f) => f.programs],
  curves: [sectionCurves, () => [...state.chosen].map((id) => [id, (rowOf(id) || {}).reported])],
  effects: [sectionEffects, (f) => [f.effects, f.sentences]],
  maps: [sectionMaps, (f) => f.maps],
  importance: [sectionImportance, (f) => f.importance],
  aggregate: [sectionAggregate, (f) => f.aggregate],
  profiles: [sectionProfiles, (f) => f.profiles],
  online: [sectionOnline, (f) => f.online],
  cost: [sectionCost, (f) => f.cost],
};
let told = {};

// What has not changed stays as it is: its zoom, its scrolling, its focus.
function sections() {
  for (const [name, [make, of]] of Object.entries(PARTS)) {
    const now = JSON.stringify([of(state.facts), state.dataset]);
    if (told[name] === now) continue;
    told[name] = now;
    make();
  }
  if (state.live) tick();
}

function show(facts) {
  state.facts = facts;
  state.byId = new Map(facts.rows.map((row) => [row.id, row]));
  if (state.dataset === null && state.chosen === null && datasets().length > FEW_DATASETS) state.dataset = datasets()[0];
  if (state.dataset !== null && !datasets().includes(state.dataset)) state.dataset = null;
  if (!state.picked) state.chosen = firstChosen();
  sections();
  document.documentElement.dataset.ready = "yes";
}

// Live: the page asks the server that it came from, every few seconds

async function ask(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) for (const one of [value].flat()) query.append(name, one);
  const answer = await fetch(`${path}?${query}`);
  if (!answer.ok) throw new Error(await answer.text() || `the server answered ${answer.status}`);
  return answer.json();
}

async function poll() {
  const run = decodeURIComponent(location.hash.slice(1));
  if (run !== state.run) {
    empty();
    told = {};
    Object.assign(state, { run, version: "", facts: null, dataset: null, chosen: null, picked: false, sort: null, all: false, curves: new Map() });
  }
  try {
    if (!run) {
      listRuns(await ask("api/runs", {}));
    } else {
      const found = await ask("api/run", { run, version: state.version || "" });
      status(found.reading);
      if (run !== state.run) return;
      if (found.facts) { state.version = found.version; show({ ...found.facts, now: found.now }); }
      else if (state.facts) { state.facts.now = found.now; tick(); }
    }
  } catch (problem) {
    status(`Not up to date: ${problem.message}.`);
  }
}

function status(text) {
  document.getElementById("status").textContent = text || "";
}

function empty() {
  for (const id of Object.keys(PARTS)) place(id);
  delete document.documentElement.dataset.ready;
}

function listRuns(found) {
  status("");
  place("top", el("h1", {}, "raymix runs"), el("p", { class: "quiet" }, found.folder),
    found.runs.length ? el("div", { class: "scroll" }, el("table", { id: "runs" }, el("thead", {}, el("tr", {}, ["run", "trials", "algorithms", "data sets", "started", "ledger changed"].map((name) => el("th", {}, name)))),
      el("tbody", {}, found.runs.map((run) => el("tr", {}, el("td", {}, el("a", { href: `#${encodeURIComponent(run.name)}` }, run.name)), el("td", { class: "number" }, run.trials === null ? "–" : run.trials), el("td", {}, run.algorithms.join(", ")), el("td", {}, run.datasets.join(", ")), el("td", {}, run.started), el("td", {}, run.newest === null ? "none yet" : `${duration(Math.max(0, found.now - run.newest))} ago`)))))) : el("p", {}, "No runs yet."));
  document.documentElement.dataset.ready = "yes";
}

async function live() {
  state.live = true;
  const again = async () => { document.getElementById("back").hidden = !location.hash.slice(1); await poll(); };
  addEventListener("hashchange", again);
  for (;;) {
    await again();
    const first = state.run && !state.facts; // the first facts of a long ledger are worth asking for again
    await new Promise((resolve) => setTimeout(resolve, 1000 * (first ? POLL_SECONDS / 10 : POLL_SECONDS)));
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { told = {}; if (state.facts) sections(); });
const written = JSON.parse(document.getElementById("facts").textContent);
if (written === null) live(); else show(written);
