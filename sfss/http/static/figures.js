"use strict";
// From one JSON answer after another to what is shown: rates, ratios, a verdict. Touches no document and asks no
// server. A figure that a server doesn't give is null all the way, and shown as a dash: never as 0.

const SPANS_MIN = [1, 2, 5]; // what the charts span, growing with what is known
const HISTORY_MS = 5 * 60 * 1000;
const SAMPLES_MAX = 400; // for each subject; bounds the memory of a page that is open for weeks
const NOT_PROXIES = new Set(["storages", "webserver", "ring", "durability"]);

// What counts as what, in the STATS of a memcache server and in the web tier's own figures. The first name that is
// there is taken; the counters of an inner list are added up.
const COUNTERS = {
  memcache: {
    reads: [["cmd_get"]],
    writes: [["cmd_set", "cmd_delete"]],
    hits: [["get_hits"]],
    misses: [["get_misses"]],
    failures: [["quorum_failures"]],
    bytesIn: [["bytes_read"]],
    bytesOut: [["bytes_written"]],
  },
  web: {
    reads: [["requests_get", "requests_head"], ["requests_get"]],
    writes: [["requests_put", "requests_post", "requests_delete"], ["requests_put", "requests_post"]],
    hits: [["get_hits"]],
    misses: [["get_misses"]],
    failures: [["status_5xx"]],
    bytesIn: [["bytes_in"], ["bytes_read"]],
    bytesOut: [["bytes_out"], ["bytes_written"]],
  },
};

function number(stats, name) {
  const text = stats[name];
  if (text === undefined || text === null || text === "") return null;
  const value = Number(text);
  return Number.isFinite(value) ? value : null;
}

function sumOf(stats, names) {
  const values = names.map((name) => number(stats, name));
  return values.includes(null) ? null : values.reduce((sum, value) => sum + value, 0);
}

function sumKnown(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
}

function counter(stats, alternatives) {
  for (const names of alternatives) {
    const sum = sumOf(stats, names);
    if (sum !== null) return sum;
  }
  return null;
}

// What stands for a read and for a write, wherever it is told.
const OPERATIONS = { read: ["get", "read"], write: ["put", "post", "set", "apply"] };

// A recent percentile in milliseconds, or null. Of several operations it is the slowest one's: percentiles can't be
// added up. 0 means that the server had nothing to measure.
function latency(stats, operations, percent) {
  const told = operations.map((operation) => number(stats, `latency_${operation}_p${percent}_us`) ?? 0);
  return Math.max(...told) / 1000 || null;
}

// One proxy, node or web process over time.
class Subject {
  constructor(name, kind) {
    this.name = name;
    this.kind = kind;
    this.samples = [];
    this.seenAt = 0;
    this.stats = {};
    this.state = "ok";
    this.error = "";
  }

  take(at, stats) {
    const before = this.stats;
    const seconds = (at - this.seenAt) / 1000;
    // A server that was started anew counts from 0: there is no rate across that, nor across a long silence.
    const comparable =
      this.samples.length > 0 && before.pid === stats.pid && this.state !== "dead" && seconds > 0 && seconds < 30;
    const sample = { at };
    for (const [name, alternatives] of Object.entries(COUNTERS[this.kind])) {
      const from = comparable ? counter(before, alternatives) : null;
      const to = counter(stats, alternatives);
      sample[name] = from === null || to === null || to < from ? null : (to - from) / seconds;
    }
    for (const [kind, operations] of Object.entries(OPERATIONS)) {
      for (const percent of [50, 99]) sample[`${kind}P${percent}`] = latency(stats, operations, percent);
    }
    this.stats = stats;
    this.seenAt = at;
    this.state = String(stats.state ?? "ok");
    this.error = withoutPrefix(String(stats.error ?? ""), `${this.name}: `);
    this.keep(sample);
  }

  keep(sample) {
    sample.hitRatio = ratio(sample.hits, sample.misses);
    this.samples.push(sample);
    while (this.samples.length > SAMPLES_MAX || this.samples[0].at < sample.at - HISTORY_MS - 5000) this.samples.shift();
  }

  get last() {
    return this.samples[this.samples.length - 1] ?? {};
  }
}

function withoutPrefix(text, prefix) {
  return text.startsWith(prefix) ? text.slice(prefix.length) : text;
}

function ratio(hits, misses) {
  if (hits === null || hits === undefined || misses === null || misses === undefined) return null;
  return hits + misses > 0 ? hits / (hits + misses) : null;
}

// Everything known, brought up to date by each answer.
class Figures {
  constructor() {
    this.proxies = new Map();
    this.nodes = new Map();
    this.workers = new Map();
    this.total = new Subject("total", "web");
    this.web = null;
    this.ring = null;
    this.durability = null; // {state, reasons, …}: the servers' own verdict on what is stored
    this.problem = "";
  }

  take(at, answer) {
    this.problem = typeof answer.error === "string" ? String(answer.message ?? answer.error) : "";
    const proxies = Object.entries(answer).filter(([name, stats]) => !NOT_PROXIES.has(name) && isObject(stats));
    if (this.problem && !proxies.length && !isObject(answer.storages)) return;
    const nodes = Object.entries(isObject(answer.storages) ? answer.storages : {});
    const webserver = isObject(answer.webserver) ? answer.webserver : null;
    const coordinators = [...proxies.map(([, stats]) => stats), ...(webserver ? [webserver] : [])];
    this.update(this.proxies, at, proxies, "memcache");
    this.update(
      this.nodes,
      at,
      nodes.map(([name, stats]) => [name, asSeen(name, stats, coordinators)]),
      "memcache",
    );
    this.takeWeb(at, webserver);
    this.ring = isObject(answer.ring) ? answer.ring : null;
    const durability = answer.durability ?? webserver?.durability;
    this.durability = isObject(durability) && durability.state !== "unknown" ? durability : null;
    this.keepTotal(at);
  }

  update(subjects, at, entries, kind) {
    const names = new Set();
    for (const [name, stats] of entries) {
      if (!isObject(stats)) continue;
      names.add(name);
      if (!subjects.has(name)) subjects.set(name, new Subject(name, kind));
      subjects.get(name).take(at, stats);
    }
    for (const name of subjects.keys()) if (!names.has(name)) subjects.delete(name);
  }

  takeWeb(at, webserver) {
    if (!webserver) {
      this.web = null;
      this.workers.clear();
      return;
    }
    this.web ??= new Subject("web", "web");
    this.web.take(at, webserver);
    this.update(this.workers, at, workersOf(webserver), "web");
  }

  // What the cluster as a whole does, as seen from the tier nearest to its users that tells.
  keepTotal(at) {
    const tiers = [this.web ? [this.web] : [], [...this.proxies.values()], [...this.nodes.values()]];
    const sample = { at };
    for (const name of ["reads", "writes", "hits", "misses", "failures", "bytesIn", "bytesOut"]) {
      sample[name] = null;
      for (const tier of tiers) {
        sample[name] ??= sumKnown(tier.filter(answers).map((subject) => subject.last[name]));
      }
    }
    for (const name of ["readP50", "readP99", "writeP50", "writeP99"]) {
      // Several servers are as slow as the slowest of them.
      const told = tiers.map((tier) => tier.filter(answers).map((subject) => subject.last[name] ?? null));
      const values = told.map((tier) => tier.filter((value) => value !== null)).find((tier) => tier.length > 0);
      sample[name] = values ? Math.max(...values) : null;
    }
    this.total.keep(sample);
  }

  // The minutes that charts span now: few at first, so that a new page isn't all empty paper.
  spanMinutes(now) {
    const known = now - (this.total.samples[0]?.at ?? now);
    return SPANS_MIN.find((minutes) => known <= minutes * 60000) ?? SPANS_MIN[SPANS_MIN.length - 1];
  }

  // Who places files on the nodes, and so knows of them all: the proxies, or with --direct the web tier itself.
  get coordinators() {
    return [...this.proxies.values(), ...(this.web ? [this.web] : [])].filter(answers);
  }

  // {copies, writes, reads}, or null where nobody tells. The ring has them as numbers, a coordinator as `3/2/2`.
  quorum() {
    if (this.ring && number(this.ring, "N")) {
      return { copies: number(this.ring, "N"), writes: number(this.ring, "W"), reads: number(this.ring, "R") };
    }
    for (const { stats } of this.coordinators) {
      const found = /^(\d+)\/(\d+)\/(\d+)$/.exec(stats.quorum ?? "");
      if (found) return { copies: Number(found[1]), writes: Number(found[2]), reads: Number(found[3]) };
    }
    return null;
  }

  // What users have stored, as the first coordinator that answers reckons; null where none does.
  files() {
    const told = this.coordinators.map((coordinator) => number(coordinator.stats, "curr_items"));
    return told.find((count) => count !== null) ?? null;
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// A node's figures with what coordinators tell of it (`<node>/read_p50_us` and so on among their own): its latencies as
// the first that has any sees them, which tells more than the node could, and how many writes it has yet to get.
function asSeen(name, stats, coordinators) {
  if (!isObject(stats)) return stats;
  const latencies = {};
  for (const own of coordinators) {
    for (const [operation, percent] of [["read", 50], ["read", 99], ["apply", 50], ["apply", 99]]) {
      const told = own[`${name}/${operation}_p${percent}_us`];
      if (told !== undefined) latencies[`latency_${operation}_p${percent}_us`] ??= told;
    }
  }
  const missed = sumKnown(coordinators.map((own) => number(own, `${name}/hints_waiting`)));
  return { ...latencies, ...(missed === null ? {} : { hints_waiting: missed }), ...stats };
}

// The web tier's processes as [name, stats]; `workers` is a list of figures, or an object of them by pid.
function workersOf(webserver) {
  const workers = webserver.workers;
  if (Array.isArray(workers)) {
    return workers.filter(isObject).map((stats, index) => [`process ${stats.pid ?? index + 1}`, stats]);
  }
  return isObject(workers) ? Object.entries(workers).map(([pid, stats]) => [`process ${pid}`, stats]) : [];
}

function answers(subject) {
  return subject.state !== "dead";
}

// --- the verdict ---------------------------------------------------------------------------------------

// {level: ok | warn | bad, line, detail, notes}: one line, what it means for users, and what else to know.
function verdict(figures) {
  const nodes = [...figures.nodes.values()];
  const proxies = [...figures.proxies.values()];
  if (figures.problem) return { level: "bad", line: "Files can't be reached", detail: figures.problem, notes: [] };

  const deadNodes = nodes.filter((node) => !answers(node));
  const deadProxies = proxies.filter((proxy) => !answers(proxy));
  const uneasy = [...nodes, ...proxies].filter((subject) => answers(subject) && (subject.state !== "ok" || subject.error));
  const down = [];
  if (deadNodes.length) down.push(outOf(deadNodes.length, nodes.length, "node"));
  if (deadProxies.length) down.push(outOf(deadProxies.length, proxies.length, "proxy"));
  const { state, reasons } = durabilityOf(figures);
  const notes = [...new Set([...[...deadNodes, ...deadProxies, ...uneasy].map(noteOn), ...reasons, ...alarms(nodes)])];

  const effect = effectOf(figures, deadNodes.length, nodes.length, deadProxies.length, proxies.length);
  if (state === "failing" && !(down.length && effect.level === "bad")) {
    const [why, ...others] = [reasons[0] ?? "", ...notes.filter((note) => note !== reasons[0])];
    return { level: "bad", line: "Files are out of reach", detail: sentence(why), notes: others };
  }
  if (down.length) {
    const plural = deadNodes.length + deadProxies.length > 1;
    return { level: effect.level, line: `${down.join(" and ")} ${plural ? "are" : "is"} down`, detail: effect.text, notes };
  }
  if (state === "recovering") {
    const detail = "Files stay readable and writable. Not all is as it should be yet.";
    return { level: "warn", line: "Recovering", detail, notes };
  }
  if (uneasy.length) {
    const [first] = uneasy;
    const line = uneasy.length === 1 ? `${first.name} needs a look` : `${uneasy.length} servers need a look`;
    return { level: "warn", line, detail: census(figures), notes };
  }
  if (notes.length) return { level: "warn", line: "Working, with something to look at", detail: census(figures), notes };
  return { level: "ok", line: "All is well", detail: census(figures), notes };
}

// What the servers make of it themselves; where they don't say, nothing.
function durabilityOf({ durability }) {
  const reasons = Array.isArray(durability?.reasons) ? durability.reasons.map(String) : [];
  return { state: String(durability?.state ?? ""), reasons };
}

function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;
}

function outOf(count, total, word) {
  const words = total === 1 ? word : plural(word);
  if (count === total) return total === 1 ? `The only ${word}` : `All ${total} ${words}`;
  return `${count} of ${total} ${words}`;
}

function plural(word) {
  return word === "proxy" ? "proxies" : word === "process" ? "processes" : `${word}s`;
}

function counted(count, word) {
  return `${whole.format(count)} ${count === 1 ? word : plural(word)}`;
}

// What dead servers mean for the files. With k nodes dead the unluckiest file has min(k, N) of its copies on them;
// where there are more nodes than copies, others are luckier.
function effectOf(figures, deadNodes, nodes, deadProxies, proxies) {
  if (proxies && deadProxies === proxies) {
    return { level: "bad", text: "Files can't be read or written until a proxy is back." };
  }
  const others = deadProxies ? ` Requests go through the other ${proxies - deadProxies === 1 ? "proxy" : "proxies"}.` : "";
  if (!deadNodes) return { level: "warn", text: `Files stay readable and writable.${others}` };
  const quorum = figures.quorum();
  if (nodes === deadNodes) return { level: "bad", text: "Files can't be read or written until nodes are back." };
  if (!quorum) return { level: "warn", text: `The nodes that are left answer.${others}` };
  const left = quorum.copies - Math.min(deadNodes, quorum.copies);
  const whose = nodes > quorum.copies ? "Some files" : "Files";
  if (left >= quorum.writes && left >= quorum.reads) {
    return { level: "warn", text: `Files stay readable and writable.${others}` };
  }
  if (left >= quorum.reads) return { level: "bad", text: `${whose} can be read but not written until a node is back.` };
  if (left >= quorum.writes) return { level: "bad", text: `${whose} can be written but not read until a node is back.` };
  return { level: "bad", text: `${whose} can't be read or written until a node is back.` };
}

function noteOn(subject) {
  const words = [subject.state === "ok" ? "" : `is ${subject.state}`, subject.error].filter(Boolean);
  return `${subject.name}${subject.state === "ok" ? ": " : " "}${words.join(": ")}`;
}

// What a node says of itself that somebody should know, though it works.
function alarms(nodes) {
  const notes = [];
  for (const node of nodes.filter(answers)) {
    const corrupt = number(node.stats, "corrupt_records");
    if (corrupt) notes.push(`${node.name} has found ${counted(corrupt, "record")} with a wrong checksum`);
    if (["interval", "never"].includes(node.stats.sync)) {
      notes.push(`${node.name} acknowledges writes before they are on disk (sync=${node.stats.sync})`);
    }
  }
  return notes;
}

function census(figures) {
  const parts = [];
  if (figures.nodes.size) parts.push(counted(figures.nodes.size, "node"));
  if (figures.proxies.size) parts.push(counted(figures.proxies.size, "proxy"));
  if (figures.workers.size) parts.push(`${figures.workers.size} web ${figures.workers.size === 1 ? "process" : "processes"}`);
  if (!parts.length) return "";
  const last = parts.pop();
  const single = !parts.length && last.startsWith("1 ");
  return `${parts.length ? `${parts.join(", ")} and ${last}` : last} ${single ? "answers" : "answer"}.`;
}

// --- words for figures ---------------------------------------------------------------------------------

// Each gives [figure, unit], so that the unit can be drawn smaller.
const DASH = ["–", ""];
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

function scaled(value) {
  return value === 0 || value >= 99.95 ? whole.format(value) : oneDigit.format(value);
}

function milliseconds(value) {
  return value < 1 ? value.toFixed(2) : scaled(value);
}

const words = {
  count: (value) => (value === null ? DASH : value >= 1e7 ? [scaled(value / 1e6), "M"] : [whole.format(value), ""]),
  rate: (value) => (value === null ? DASH : value >= 1e5 ? [scaled(value / 1000), "k"] : [scaled(value), ""]),
  bytes(value) {
    if (value === null) return DASH;
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let step = 0;
    while (value >= 999.5 && step < units.length - 1) {
      value /= 1000;
      step += 1;
    }
    return [step ? scaled(value) : whole.format(value), units[step]];
  },
  bytesRate(value) {
    const [figure, unit] = words.bytes(value);
    return [figure, unit && `${unit}/s`];
  },
  milliseconds(value) {
    if (value === null) return DASH;
    if (value >= 1000) return [scaled(value / 1000), "s"];
    return [milliseconds(value), "ms"];
  },
  percent(value) {
    if (value === null) return DASH;
    const percent = value * 100;
    // 99.97 % must not read as 100 %: one miss in ten thousand is a miss.
    const shown = percent > 99.9 && percent < 100 ? 99.9 : percent;
    return [shown === 100 || shown === 0 ? whole.format(shown) : oneDigit.format(shown), "%"];
  },
  duration(seconds) {
    if (seconds === null) return DASH;
    if (seconds < 60) return [`${Math.floor(seconds)} s`, ""];
    if (seconds < 3600) return [`${Math.floor(seconds / 60)} min`, ""];
    if (seconds < 86400) return [`${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`, ""];
    return [`${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`, ""];
  },
};

function inWords(format, value) {
  const [figure, unit] = words[format](value ?? null);
  return unit ? `${figure} ${unit}` : figure;
}
