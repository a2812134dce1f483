// The list: which episodes are shown, in which order, and the few rows of them that are in sight.
"use strict";

const ROW = 30; // height of a row in pixels; view.css says the same
const SPARE = 8; // rows that are kept above and below what is in sight

const facts = view.index;
const columns = facts.columns;
const total = columns.run.length;

/** An element with text in it; nothing that a model wrote is ever read as markup. */
function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}

/** Whether an episode succeeded: 1, 0, or null where nobody judged. */
function success(number) {
  const outcome = facts.terms[facts.outcome]?.[number] ?? null;
  return outcome === null ? null : outcome >= 1 ? 1 : 0;
}

function sumOf(term, number) {
  return facts.terms[term]?.[number] ?? null;
}

function number(text) {
  return text === undefined || text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
}

/** A test of whether a value lies in a range of which either end may be open; no value lies in none. */
function between(low, high) {
  if (low === null && high === null) return null;
  return (value) => value !== null && (low === null || value >= low) && (high === null || value <= high);
}

/** The tests that an episode must pass, from the fields of the filter. */
function testsOf(filter) {
  const tests = [];
  const range = (name, column) => {
    const test = between(number(filter[`${name}-min`]), number(filter[`${name}-max`]));
    if (test) tests.push((e) => test(column(e)));
  };
  if (filter.q) {
    const wanted = filter.q.toLowerCase();
    const found = facts.tasks.map(([id, prompt]) => `${prompt}\n${id}`.toLowerCase().includes(wanted));
    tests.push((e) => found[columns.task[e]]);
  }
  for (const name of ["run", "group", "reason"]) {
    const wanted = number(filter[name]);
    if (wanted !== null) tests.push((e) => columns[name][e] === wanted);
  }
  if (filter.was) {
    const wanted = { success: 1, failure: 0, unscored: null }[filter.was];
    tests.push((e) => success(e) === wanted);
  }
  if (filter.errors) tests.push((e) => columns.errors[e] > 0 === (filter.errors === "yes"));
  range("update", (e) => columns.update[e]);
  range("calls", (e) => columns.calls[e]);
  range("reward", (e) => sumOf(filter.term, e));
  return tests;
}

/** Numbers of the episodes that pass, in the order asked for: a column's name, with "-" before it for falling. */
function chosen(filter, sort) {
  const tests = testsOf(filter);
  const passed = [];
  for (let e = 0; e < total; e++) if (tests.every((test) => test(e))) passed.push(e);
  if (!sort) return passed;
  const name = sort.replace("-", "");
  const sign = sort.startsWith("-") ? -1 : 1;
  const value = { was: success, reward: (e) => sumOf(filter.term, e) }[name] ?? ((e) => columns[name]?.[e] ?? null);
  return passed.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (x - y) || a - b;
  });
}

/** A list that holds elements only for the rows in sight. */
class List {
  constructor(box, tall, open) {
    this.box = box;
    this.tall = tall;
    this.rows = [];
    this.term = "";
    this.selected = null;
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
    tall.addEventListener("click", (event) => {
      const row = event.target.closest("[data-episode]");
      if (row) open(Number(row.dataset.episode));
    });
  }

  show(rows, term) {
    this.rows = rows;
    this.term = term;
    this.tall.style.height = `${rows.length * ROW}px`;
    this.draw();
  }

  /** Mark an episode, and bring it in sight. */
  select(episode) {
    this.selected = episode;
    this.box.setAttribute("aria-activedescendant", `row-${episode}`);
    const at = this.rows.indexOf(episode);
    if (at >= 0) {
      const { scrollTop, clientHeight } = this.box;
      if (at * ROW < scrollTop) this.box.scrollTop = at * ROW;
      if ((at + 1) * ROW > scrollTop + clientHeight) this.box.scrollTop = (at + 1) * ROW - clientHeight;
    }
    this.draw();
  }

  /** The episode that stands so many rows from the selected one, within the list. */
  near(step) {
    const at = this.rows.indexOf(this.selected);
    if (at < 0) return this.rows[0] ?? null;
    return this.rows[Math.min(Math.max(at + step, 0), this.rows.length - 1)];
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + SPARE);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.tall.replaceChildren(...rows);
  }

  row(at) {
    const e = this.rows[at];
    const was = success(e);
    const row = make("div", "row");
    row.id = `row-${e}`;
    row.dataset.episode = e;
    row.style.top = `${at * ROW}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", e === this.selected);
    row.setAttribute("aria-setsize", this.rows.length);
    row.setAttribute("aria-posinset", at + 1);
    const sum = sumOf(this.term, e);
    row.append(
      make("span", was === 1 ? "good" : was === 0 ? "bad" : "", was === 1 ? "✓" : was === 0 ? "✗" : "·"),
      make("span", "num", columns.update[e] ?? "–"),
      make("span", "num", columns.group[e] ?? "–"),
      make("span", "prompt", facts.tasks[columns.task[e]][1]),
      make("span", "num", sum === null ? "–" : String(+sum.toFixed(3))),
      make("span", "num", columns.calls[e]),
      make("span", "num wrong", columns.errors[e] || ""),
    );
    return row;
  }
}
