// The document: asks for figures every two seconds while somebody looks, and shows them in place. Every text from
// outside goes through `textContent`, so a node's name can hold anything.

const ASK_EVERY_MS = 2000;
const ASK_AGAIN_MS_MAX = 10000; // where the server can't be reached
const ANSWER_MS_MAX = 6000;

const byId = (id) => document.getElementById(id);

// Make an element. `attributes` may be null; a child is an element or a text.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Write only what changed: a screen reader announces writes in a live region, and a selection survives.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function setFigure(element, [figure, unit]) {
  if (!element.firstChild) element.append(make("span", { class: "figure" }), make("span", { class: "unit" }));
  setText(element.firstChild, figure);
  setText(element.lastChild, unit ? `\u202f${unit}` : "");
}

// The signs differ in shape as well as in colour.
const SIGNS = {
  ok: ["M2 8a6 6 0 1 1 12 0A6 6 0 0 1 2 8Z", "m5.3 8.2 1.9 1.9 3.6-4"],
  warn: ["M8 2 14.6 13.6H1.4Z", "M8 6.4v3.4M8 11.6v.2"],
  bad: ["M5.3 1.8h5.4l3.5 3.5v5.4l-3.5 3.5H5.3l-3.5-3.5V5.3Z", "m5.9 5.9 4.2 4.2m0-4.2-4.2 4.2"],
  waiting: ["M2 8a6 6 0 1 1 12 0A6 6 0 0 1 2 8Z", "M5 8h.01M8 8h.01M11 8h.01"],
};
const SIGN_COLOURS = { ok: "#1f8a57", warn: "#b7791f", bad: "#cf3a35", waiting: "#7a8691" };

function sign(level) {
  const [outline, mark] = SIGNS[level];
  const element = svg("svg", { viewBox: "0 0 16 16", class: `sign-${level}` });
  element.append(svg("path", { d: outline, class: "outline" }), svg("path", { d: mark, class: "mark" }));
  return element;
}

function showSign(holder, level) {
  if (holder.dataset.sign === level) return;
  holder.dataset.sign = level;
  holder.replaceChildren(sign(level));
}

// The tab's icon is the same sign, so a page in the background tells too.
function showIcon(level) {
  const icon = document.querySelector("link[rel=icon]");
  if (icon.dataset.sign === level) return;
  icon.dataset.sign = level;
  const [outline, mark] = SIGNS[level];
  const picture =
    `<svg xmlns="${SVG}" viewBox="0 0 16 16"><path d="${outline}" fill="${SIGN_COLOURS[level]}"/>` +
    `<path d="${mark}" fill="none" stroke="#fff" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round"/></svg>`;
  icon.href = `data:image/svg+xml,${encodeURIComponent(picture)}`;
}

// --- tiles: the whole cluster over the last minutes -----------------------------------------------------

const TILES = [
  {
    title: "Requests",
    format: "rate",
    unit: "/s",
    series: [
      { key: "reads", name: "reads" },
      { key: "writes", name: "writes" },
    ],
  },
  {
    title: "Latency, 99th percentile",
    format: "milliseconds",
    series: [
      { key: "readP99", name: "reads", beside: ["readP50", "median"] },
      { key: "writeP99", name: "writes", beside: ["writeP50", "median"] },
    ],
  },
  {
    title: "Traffic",
    format: "bytesRate",
    series: [
      { key: "bytesOut", name: "out" },
      { key: "bytesIn", name: "in" },
    ],
  },
  {
    title: "Hits and errors",
    format: "percent",
    ceiling: 1,
    bare: true, // an area under a ratio means nothing
    series: [{ key: "hitRatio", name: "hit ratio" }],
    unplotted: { key: "failures", name: "server errors", format: "rate", unit: "/s" },
  },
];

// A figure in a tile, with its name and, where it is drawn, the key to the chart.
class Reading {
  constructor(plan, keyClass) {
    this.plan = plan;
    this.value = make("span", { class: "value" });
    this.beside = make("span", { class: "beside" });
    const key = keyClass ? [make("span", { class: `key ${keyClass}`, "aria-hidden": "true" })] : [];
    this.element = make("div", { class: "reading" }, make("span", { class: "name" }, ...key, plan.name), this.value, this.beside);
  }

  draw(sample) {
    const { key, format, unit = "", beside } = this.plan;
    const value = sample[key] ?? null;
    const [figure, scale] = words[format](value);
    setFigure(this.value, [figure, value === null ? "" : scale + unit]);
    if (beside) setText(this.beside, `${beside[1]} ${inWords(format, sample[beside[0]])}`);
  }
}

class Tile {
  constructor(plan, cursor) {
    this.plan = plan;
    this.cursor = cursor;
    this.chart = new Chart(plan.title, plan.series, plan.format, plan.bare ? "bare" : "");
    this.ceiling = make("span", { class: "ceiling" });
    this.since = make("span");
    this.time = make("span", { class: "now" }, "now");
    this.readings = [
      ...plan.series.map((series, index) => new Reading({ format: plan.format, unit: plan.unit, ...series }, `s${index}${plan.bare ? " bare" : ""}`)),
      ...(plan.unplotted ? [new Reading(plan.unplotted, "")] : []),
    ];
    this.frame = make("div", { class: "frame" }, this.ceiling, this.chart.element);
    this.element = make(
      "figure",
      { class: "tile", hidden: "" },
      make("figcaption", null, plan.title),
      make("div", { class: "readings" }, ...this.readings.map((reading) => reading.element)),
      this.frame,
      make("div", { class: "axis", "aria-hidden": "true" }, this.since, this.time),
    );
    this.frame.addEventListener("pointermove", (event) => cursor.move(this, event));
    this.frame.addEventListener("pointerleave", () => cursor.leave());
    new ResizeObserver(([entry]) => {
      this.chart.width = Math.max(entry.contentRect.width, 60);
      if (this.drawn) this.draw(...this.drawn);
    }).observe(this.frame);
  }

  draw(samples, now, minutes) {
    this.drawn = [samples, now, minutes];
    this.element.hidden &&= !samples.some((sample) => this.plan.series.some(({ key }) => (sample[key] ?? null) !== null));
    if (this.element.hidden) return;
    const at = this.cursor.at;
    const sample = (at === null ? samples[samples.length - 1] : nearest(samples, at)) ?? {};
    const ceiling = this.plan.ceiling ?? roundUp(highest(this.plan.series, samples));
    setText(this.ceiling, inWords(this.plan.format, ceiling).replace(".0", "") + (this.plan.unit ?? ""));
    for (const reading of this.readings) reading.draw(sample);
    setText(this.time, at === null ? "now" : clockTime(sample.clock));
    setText(this.since, `${minutes} min ago`);
    this.chart.draw(samples, now, minutes, ceiling, at);
  }
}

// One moment, marked in all charts at once while a pointer rests on one of them.
class Cursor {
  constructor(redraw) {
    this.at = null;
    this.redraw = redraw;
  }

  move(tile, event) {
    const box = tile.frame.getBoundingClientRect();
    const [, now, minutes] = tile.drawn;
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    this.at = now - (1 - part) * minutes * 60000;
    this.redraw();
  }

  leave() {
    this.at = null;
    this.redraw();
  }
}

// --- tables: each server ---------------------------------------------------------------------------------

const RATE_COLUMNS = [
  { title: "Reads/s", format: "rate", value: (subject) => subject.last.reads },
  { title: "Writes/s", format: "rate", value: (subject) => subject.last.writes },
];
const HIT_COLUMN = { title: "Hit ratio", format: "percent", value: (subject) => subject.last.hitRatio };
const LATENCY_COLUMNS = [
  { title: "Read p50 / p99", format: "pair", value: ({ last }) => pair(last.readP50, last.readP99) },
  { title: "Write p50 / p99", format: "pair", value: ({ last }) => pair(last.writeP50, last.writeP99) },
];
const TRAFFIC_COLUMNS = [
  { title: "In", format: "bytesRate", value: (subject) => subject.last.bytesIn },
  { title: "Out", format: "bytesRate", value: (subject) => subject.last.bytesOut },
];
const ERRORS_COLUMN = { title: "Errors/s", format: "rate", value: (subject) => subject.last.failures };
const CONNECTIONS_COLUMN = {
  title: "Connections",
  format: "count",
  value: (subject) => number(subject.stats, "curr_connections"),
};
// The most memory it ever had; `rusage_maxrss` is in KiB, as getrusage has it on Linux.
const PROCESS_COLUMNS = [
  { title: "Memory", format: "bytes", value: (subject) => times(number(subject.stats, "rusage_maxrss"), 1024) },
  { title: "Uptime", format: "duration", value: (subject) => number(subject.stats, "uptime") },
];

function pair(lower, upper) {
  return (lower ?? null) === null || (upper ?? null) === null ? null : [lower, upper];
}

function times(value, factor) {
  return value === null ? null : value * factor;
}

function dataBytes(subject) {
  return number(subject.stats, "live_bytes") ?? number(subject.stats, "bytes"); // the latter is memcached's
}

function shareOf(value, all) {
  const total = sumKnown(all);
  return value === null || !total ? null : value / total;
}

// A table's columns are made anew with each drawing: a share is of all rows.
const TABLES = [
  {
    title: "Nodes",
    word: "node",
    subjects: (figures) => [...figures.nodes.values()],
    note(figures) {
      const quorum = figures.quorum();
      const files = figures.files();
      const bytes = sumKnown([...figures.nodes.values()].filter(answers).map(dataBytes));
      const parts = [];
      if (files !== null) parts.push(counted(files, "file"));
      if (quorum) parts.push(quorum.copies === 1 ? "one copy of each" : `${quorum.copies} copies of each`);
      if (bytes !== null) parts.push(`${inWords("bytes", bytes)} on all nodes`);
      return parts.join(" · ");
    },
    columns(subjects) {
      const bytes = new Map(subjects.filter(answers).map((subject) => [subject, dataBytes(subject)]));
      return [
        ...RATE_COLUMNS,
        HIT_COLUMN,
        ...LATENCY_COLUMNS,
        ...TRAFFIC_COLUMNS,
        { title: "Files", format: "count", value: (subject) => number(subject.stats, "curr_items") },
        {
          title: "Data, share",
          format: "bytes",
          value: dataBytes,
          share: (subject) => shareOf(bytes.get(subject) ?? null, [...bytes.values()]),
        },
        { title: "Disk free", format: "bytes", value: (subject) => number(subject.stats, "disk_free_bytes") },
        { title: "To catch up", format: "count", value: (subject) => number(subject.stats, "hints_waiting") },
        ...PROCESS_COLUMNS,
      ];
    },
  },
  {
    title: "Proxies",
    word: "proxy",
    subjects: (figures) => [...figures.proxies.values()],
    columns: () => [
      ...RATE_COLUMNS,
      HIT_COLUMN,
      ...LATENCY_COLUMNS,
      ...TRAFFIC_COLUMNS,
      ERRORS_COLUMN,
      CONNECTIONS_COLUMN,
      ...PROCESS_COLUMNS,
    ],
  },
  {
    title: "Web processes",
    word: "process",
    subjects: (figures) => [...figures.workers.values()],
    columns: () => [
      ...RATE_COLUMNS,
      ...LATENCY_COLUMNS,
      ...TRAFFIC_COLUMNS,
      ERRORS_COLUMN,
      CONNECTIONS_COLUMN,
      ...PROCESS_COLUMNS,
    ],
  },
  {
    title: "Durability",
    word: "part",
    still: true,
    subjects: ({ durability }) => (durability ? [still("cluster", durability)] : []),
    note: () => "Ages are of what has waited longest, disk free is of the fullest disk.",
    columns: () => [
      { title: "State", format: "text", value: (subject) => subject.stats.state ?? null },
      ...[
        ["Copies short", "count", "keys_below_n"],
        ["Hints", "count", "hints_waiting"],
        ["Oldest hint", "duration", "hints_oldest_s"],
        ["To compare", "count", "regions_marked"],
        ["Compared", "duration", "oldest_comparison_s"],
        ["Scrubbed", "duration", "oldest_scrub_s"],
        ["Unsynced", "seconds", "oldest_unsynced_write_s"],
        ["Damaged", "count", "damaged_records"],
        ["Disk free", "bytes", "disk_free_bytes"],
      ].map(([title, format, name]) => ({ title, format, value: (subject) => number(subject.stats, name) })),
    ],
  },
  {
    title: "Ring",
    word: "node",
    still: true,
    subjects: ({ ring }) => Object.entries(ring?.nodes ?? {}).map(([name, stats]) => still(name, stats)),
    note(figures) {
      const { ring } = figures;
      const quorum = figures.quorum();
      const parts = [`Ring ${ring.number ?? "–"}`, `${whole.format(ring.partitions ?? 0)} partitions`];
      if (ring.joint) parts.push("on its way to the next one");
      if (quorum) parts.push(`a write waits for ${quorum.writes} of ${quorum.copies} nodes, a read for ${quorum.reads}`);
      return parts.join(" · ");
    },
    columns(shares) {
      const held = shares.map((share) => number(share.stats, "partitions"));
      const weights = sumKnown(shares.map((share) => number(share.stats, "weight")));
      const share = (subject) => shareOf(number(subject.stats, "partitions"), held);
      return [
        { title: "Zone", format: "text", value: (subject) => subject.stats.zone || null },
        { title: "Weight", format: "plain", value: (subject) => number(subject.stats, "weight") },
        { title: "First owner of", format: "count", value: (subject) => number(subject.stats, "first") },
        { title: "Partitions, share", format: "count", value: (subject) => number(subject.stats, "partitions"), share },
        {
          title: "Off its weight",
          format: "offset",
          value(subject) {
            const weight = number(subject.stats, "weight");
            return weight && weights ? share(subject) / (weight / weights) - 1 : null;
          },
        },
      ];
    },
  },
];

words.pair = (pair) => (pair === null ? DASH : [pair.map((value) => milliseconds(value)).join(" / "), "ms"]);
words.seconds = (value) => words.milliseconds(times(value, 1000));
words.text = (value) => (value === null ? DASH : [String(value), ""]);
words.plain = (value) => (value === null ? DASH : [String(Number(value.toFixed(2))), ""]);
words.offset = (value) => {
  if (value === null) return DASH;
  const figure = oneDigit.format(Math.abs(value) * 100);
  return [figure === "0.0" ? "0" : `${value < 0 ? "−" : "+"}${figure}`, "%"];
};


// A row that is about no server.
function still(name, stats) {
  return { name, stats: isObject(stats) ? stats : {}, state: "", error: "", samples: [], last: {} };
}

// Empty for a row that is about no server.
function levelOf({ state, error }) {
  if (state === "") return "";
  if (state === "dead") return "bad";
  return state === "ok" && !error ? "ok" : "warn";
}

function heading(text, kind = "") {
  return make("th", { scope: "col", role: "columnheader", class: kind }, text);
}

class Table {
  constructor(plan) {
    this.plan = plan;
    this.rows = new Map();
    this.titles = "";
    this.told = new Set(); // titles of columns that ever had a figure: those stay
    this.head = make("tr", { role: "row" });
    this.activity = heading("", "activity");
    this.body = make("tbody", { role: "rowgroup" });
    this.note = make("p", { class: "note", hidden: "" });
    const id = `table-${plan.title.toLowerCase().replaceAll(" ", "-")}`;
    this.element = make(
      "section",
      { class: "servers", id, "aria-labelledby": `${id}-title`, hidden: "" },
      make("h2", { id: `${id}-title` }, plan.title),
      this.note,
      make(
        "table",
        { role: "table", "aria-labelledby": `${id}-title` },
        make("thead", { role: "rowgroup" }, this.head),
        this.body,
      ),
    );
  }

  draw(figures, now) {
    const subjects = this.plan.subjects(figures).sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    this.element.hidden = subjects.length === 0;
    if (!subjects.length) return;
    if (this.plan.note) {
      setText(this.note, this.plan.note(figures));
      this.note.hidden = !this.note.textContent;
    }
    const minutes = figures.spanMinutes(now);
    const planned = this.plan.columns(subjects);
    for (const { title, value } of planned) {
      if (subjects.some((subject) => (value(subject) ?? null) !== null)) this.told.add(title);
    }
    const columns = planned.filter(({ title }) => this.told.has(title));
    this.drawHead(columns, minutes);
    const ceiling = Math.max(...subjects.map((subject) => highest(SPARKLINE, subject.samples))) || 1; // rows compare
    for (const name of this.rows.keys()) {
      if (subjects.some((subject) => subject.name === name)) continue;
      this.rows.get(name).element.remove();
      this.rows.delete(name);
    }
    subjects.forEach((subject, index) => {
      if (!this.rows.has(subject.name)) this.rows.set(subject.name, new Row(this.plan));
      const row = this.rows.get(subject.name);
      if (this.body.children[index] !== row.element) this.body.insertBefore(row.element, this.body.children[index] ?? null);
      row.draw(subject, subjects, columns);
      row.chart?.draw(subject.samples, now, minutes, ceiling);
    });
  }

  drawHead(columns, minutes) {
    setText(this.activity, minutes === 1 ? "Last minute" : `Last ${minutes} min`);
    const titles = columns.map((column) => column.title).join("|");
    if (titles === this.titles) return;
    this.titles = titles;
    const word = this.plan.word[0].toUpperCase() + this.plan.word.slice(1);
    const activity = this.plan.still ? [] : [this.activity];
    this.head.replaceChildren(
      heading(word, "name"),
      ...activity,
      ...columns.map(({ title, share }) => heading(title, share ? "share" : "")),
    );
    for (const row of this.rows.values()) row.forget();
  }
}

const SPARKLINE = [
  { key: "reads", name: "reads per second" },
  { key: "writes", name: "writes per second" },
];

class Row {
  constructor(plan) {
    this.plan = plan;
    this.sign = make("span", { class: "sign", "aria-hidden": "true" });
    this.name = make("span", { class: "peer" });
    this.state = make("span", { class: "state" });
    const who = make("span", { class: "who" }, this.name, this.state);
    this.head = make("th", { scope: "row", role: "rowheader" }, make("div", { class: "head" }, ...(plan.still ? [] : [this.sign]), who));
    this.chart = plan.still ? null : new Chart("Requests", SPARKLINE, "rate", "plain");
    this.element = make("tr", { role: "row" });
    this.forget();
  }

  // The columns have changed; make the cells anew at the next drawing.
  forget() {
    this.cells = null;
  }

  draw(subject, subjects, columns) {
    if (!this.cells) {
      this.cells = columns.map((column) => new Cell(column));
      const activity = this.chart ? [make("td", { class: "activity", role: "cell" }, this.chart.element)] : [];
      this.element.replaceChildren(this.head, ...activity, ...this.cells.map((cell) => cell.element));
    }
    const level = levelOf(subject);
    setAttribute(this.element, "data-level", level);
    if (level) showSign(this.sign, level);
    setText(this.name, subject.name);
    setText(this.state, stateInWords(subject));
    this.state.hidden = !this.state.textContent;
    this.cells.forEach((cell, index) => {
      cell.column = columns[index];
      cell.draw(subject, subjects);
    });
  }
}

function stateInWords(subject) {
  const { name, state, error, stats } = subject;
  const pid = answers(subject) && stats.pid && !name.includes(stats.pid) ? `pid ${stats.pid}` : "";
  return [state === "ok" && error ? "" : state, error, pid, stats.note].filter(Boolean).join(" · ");
}

class Cell {
  constructor(column) {
    this.column = column;
    this.value = make("span", { class: "value" });
    this.element = make("td", { role: "cell", "data-title": column.title, class: column.share ? "share" : "" }, this.value);
    if (column.share) {
      this.part = make("span", { class: "beside-value" });
      this.fill = make("span", { class: "fill" });
      this.element.append(this.part, make("span", { class: "bar", "aria-hidden": "true" }, this.fill));
    }
  }

  // A full bar is the largest share of all: what counts is how even they are.
  draw(subject, subjects) {
    const { format, value, share } = this.column;
    const known = (answers(subject) ? value(subject) : null) ?? null;
    setAttribute(this.element, "data-known", String(known !== null));
    setFigure(this.value, words[format](known));
    if (!share) return;
    const part = known === null ? null : share(subject);
    setText(this.part, part === null ? "" : inWords("percent", part));
    const largest = Math.max(...subjects.filter(answers).map((other) => share(other) ?? 0));
    this.fill.style.inlineSize = part ? `${((part / largest) * 100).toFixed(1)}%` : "0";
  }
}

// --- the page --------------------------------------------------------------------------------------------

function clockTime(date) {
  return date ? date.toLocaleTimeString("en-GB") : "";
}

const figures = new Figures();
const cursor = new Cursor(drawTiles);
const tiles = TILES.map((plan) => new Tile(plan, cursor));
const tables = TABLES.map((plan) => new Table(plan));
byId("tiles").append(...tiles.map((tile) => tile.element));
byId("tables").append(...tables.map((table) => table.element));

let drawnAt = 0;
let tableWidth = 0; // what the widest table has needed so far

// Tables as tables where the widest of them fits, else all of them as cards. How wide that is depends on the names of the
// servers and on the reader's font, so it is measured.
function fit() {
  if (document.body.dataset.layout !== "cards") {
    tableWidth = Math.max(...tables.map((table) => table.element.scrollWidth));
  }
  setAttribute(document.body, "data-layout", tableWidth > byId("tables").clientWidth ? "cards" : "tables");
}

new ResizeObserver(fit).observe(byId("tables"));

function drawTiles() {
  for (const tile of tiles) tile.draw(figures.total.samples, drawnAt, figures.spanMinutes(drawnAt));
}

function draw(now) {
  drawnAt = now;
  // One answer has no rates yet, and what comes and goes within half a second only disturbs.
  if (figures.total.samples.length > 1) {
    drawTiles();
    for (const table of tables) table.draw(figures, now);
    fit();
  }
  showVerdict(verdict(figures));
  document.body.dataset.stale = String(figures.problem !== "");
  const [only, ...others] = figures.proxies.keys();
  setText(byId("subject"), figures.ring && only && !others.length ? `of ${only}` : `of ${location.host}`);
}

function showVerdict({ level, line, detail, notes }) {
  setAttribute(byId("verdict"), "data-level", level);
  showSign(byId("verdict-sign"), level);
  setText(byId("verdict-line"), line);
  setText(byId("verdict-detail"), detail);
  const list = byId("verdict-notes");
  if (list.dataset.notes !== notes.join("\n")) {
    list.dataset.notes = notes.join("\n");
    list.replaceChildren(...notes.map((note) => make("li", null, note)));
  }
  list.hidden = notes.length === 0;
  showIcon(level);
  document.title = `${level === "ok" ? "" : `${line} · `}${document.body.dataset.page} · sfss`;
}

function showLink(state, text) {
  document.body.dataset.link = state;
  if (state === "lost") document.body.dataset.stale = "true";
  setText(byId("link-text"), text);
}

let lastAnswer = null; // {at, clock} of the newest answer; `at` is on performance.now()'s clock
let answered = 0;
let failures = 0;
let timer = 0;
let asking = false;

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  clearTimeout(timer);
  try {
    const response = await fetch(location.pathname + location.search, {
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
    const answer = await response.json();
    const at = performance.now();
    figures.take(at, answer);
    lastAnswer = { at, clock: new Date() };
    if (figures.total.samples.length) figures.total.last.clock = lastAnswer.clock;
    answered += 1;
    failures = 0;
    draw(at);
    showLink("live", "Live");
  } catch (error) {
    failures += 1;
    lost(error);
  } finally {
    asking = false;
  }
  tick();
  if (document.hidden) showLink("paused", "Paused while hidden");
  else timer = setTimeout(ask, waitMs());
}

// A rate needs two answers: the second is asked for at once.
function waitMs() {
  if (failures) return Math.min(ASK_EVERY_MS * 1.5 ** failures, ASK_AGAIN_MS_MAX);
  return answered === 1 ? ASK_EVERY_MS / 4 : ASK_EVERY_MS;
}

function lost(error) {
  const why = error.name === "TimeoutError" ? "It is silent." : error.name === "SyntaxError" ? "It sends no figures." : "";
  const then = lastAnswer ? "What you see below is the last that it told." : "";
  showVerdict({
    level: "bad",
    line: "The server doesn't answer",
    detail: [why, then, "This page tries again every few seconds."].filter(Boolean).join(" "),
    notes: [],
  });
  showLink("lost", "No answer");
}

// The clock stands outside of the live regions: nobody wants the time read out every second.
function tick() {
  const clock = byId("clock");
  if (!lastAnswer) return setText(clock, "");
  clock.dateTime = lastAnswer.clock.toISOString();
  const age = Math.round((performance.now() - lastAnswer.at) / 1000);
  return setText(clock, clockTime(lastAnswer.clock) + (age > 4 ? `, ${inWords("duration", age)} ago` : ""));
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) showLink("paused", "Paused while hidden");
  else ask();
});
window.addEventListener("online", ask);
setInterval(tick, 1000);
showSign(byId("verdict-sign"), "waiting");
ask();
