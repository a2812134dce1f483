// The page: what is shown stands in the address after "#", so that it can be kept and sent; keys and buttons change it.
"use strict";

const at = (id) => document.getElementById(id);
const form = at("filter");
const fields = [...form.elements].filter((field) => field.name);
const colours = ["advantage", ...Object.keys(facts.terms).map((name) => `term:${name}`)].filter((c) => c in facts.largest);
colours.push("who");

// ---- State: {tab, e, group, colour, sort, and the fields of the filter} ----

const ABREAST = 32; // episodes of a group that are shown at once
const MARGIN = 16; // pixels around what is read; view.css says the same

let state = {};
let rows = [];
let shown = 0; // counts what was asked for, so that a chunk that comes late does not replace what was asked later

function nameOf(episode) {
  const run = columns.run[episode];
  return `${run}.${episode - facts.starts[run]}`;
}

function episodeOf(name) {
  const [run, within] = (name ?? "").split(".").map(Number);
  const episode = facts.starts[run] + within;
  return columns.run[episode] === run ? episode : null;
}

function readAddress() {
  const words = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  return { ...words, tab: words.tab === "runs" ? "runs" : "episodes", e: episodeOf(words.e) };
}

/** Change the state; a change that the reader may want to go back from becomes a step of the browser's history. */
function go(change, step = false) {
  const next = { ...state, ...change };
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(next)) {
    const text = name === "e" && value !== null ? nameOf(value) : value;
    if (text !== null && text !== undefined && text !== "" && text !== false) words.set(name, text);
  }
  history[step ? "pushState" : "replaceState"](null, "", `#${words}`);
  apply(next);
}

function apply(next) {
  const before = state;
  state = next;
  at("runs").hidden = next.tab !== "runs";
  at("episodes").hidden = next.tab === "runs";
  at("to-runs").setAttribute("aria-pressed", next.tab === "runs");
  at("to-episodes").setAttribute("aria-pressed", next.tab !== "runs");
  document.body.classList.toggle("reading", next.e !== null);
  document.body.classList.toggle("side-by-side", Boolean(next.group_view));
  const same = fields.every((field) => (before[field.name] ?? "") === (next[field.name] ?? "")) && before.sort === next.sort;
  if (!same || !before.tab) filter();
  if (before.tab !== next.tab) list.draw();
  list.select(next.e);
  const changed = ["e", "group_view", "colour"].some((name) => before[name] !== next[name]);
  if (changed || !before.tab) read();
}

// ---- The filter and the list ----

const list = new List(at("list"), at("tall"), (e) => go({ e }, state.e === null));

function filter() {
  for (const field of fields) if (field.value !== (state[field.name] ?? "")) field.value = state[field.name] ?? "";
  if (!form.elements.term.value) form.elements.term.value = Object.keys(facts.terms)[0] ?? "";
  const term = form.elements.term.value;
  rows = chosen({ ...state, term }, state.sort);
  list.show(rows, term);
  const counted = rows.length === total ? `${total.toLocaleString("en")} episodes` : `${rows.length.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  at("count").textContent = counted;
  for (const head of document.querySelectorAll("[data-sort]")) {
    const sign = state.sort === head.dataset.sort ? "ascending" : state.sort === `-${head.dataset.sort}` ? "descending" : "none";
    head.setAttribute("aria-sort", sign);
  }
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
}

// ---- What is read ----

/** The episodes of a group: of one update and number, or where there is none, of one task in all runs. */
function membersOf(episode) {
  const keys = columns.group[episode] === null ? ["task"] : ["run", "update", "group"];
  const members = [];
  for (let e = 0; e < total; e++) if (keys.every((key) => columns[key][e] === columns[key][episode])) members.push(e);
  return members;
}

/** As many of a group's episodes as fit beside one another without a wait: a page of them, with the chosen one on it. */
function inSight(members) {
  const first = Math.floor(members.indexOf(state.e) / ABREAST) * ABREAST;
  return members.slice(first, first + ABREAST);
}

/** What the members of a group have in common; of a large one, which of them are in sight. */
function groupHead(members, episodes, texts) {
  const head = make("header");
  const [first, scored] = [members[0], members.filter((e) => success(e) !== null)];
  const grouped = columns.group[first] !== null;
  const where = grouped ? `${facts.runs[columns.run[first]]} · update ${columns.update[first] ?? "–"} · group ${columns.group[first]}` : "every episode of this task";
  const won = scored.filter((e) => success(e) === 1).length;
  const parts = [where, scored.length ? `${won} of ${scored.length} succeeded` : "not scored"];
  if (episodes.length < members.length) {
    const from = members.indexOf(episodes[0]);
    parts.push(`${from + 1} to ${from + episodes.length} of ${members.length} are shown`);
  }
  head.append(make("p", "where", parts.join(" · ")), ...questionOf(texts));
  return head;
}

async function read() {
  const turn = ++shown;
  const box = at("transcript");
  const colour = colours.includes(state.colour) ? state.colour : colours[0];
  at("colour").value = colour;
  showKey(colour);
  if (state.e === null) {
    box.replaceChildren(make("p", "note", "Choose an episode: j and k step through the list, ? shows all keys."));
    return;
  }
  const members = state.group_view ? membersOf(state.e) : [state.e];
  const episodes = inSight(members);
  at("group").setAttribute("aria-pressed", Boolean(state.group_view));
  try {
    const texts = await Promise.all(episodes.map(textsOf));
    if (turn !== shown) return;
    const articles = episodes.map((e, n) => article(e, texts[n], colour, !state.group_view));
    box.className = state.group_view ? "group" : "";
    if (!state.group_view) {
      box.replaceChildren(...articles);
      box.scrollTop = 0;
      return;
    }
    const side = make("div");
    side.id = "members";
    side.append(...articles);
    box.replaceChildren(groupHead(members, episodes, texts[0]), side);
    const current = articles[episodes.indexOf(state.e)];
    current.classList.add("current");
    box.scrollTop = 0;
    // Only sideways: scrollIntoView would also scroll the question out of sight.
    const room = box.clientWidth - current.offsetWidth - 2 * MARGIN;
    const left = current.offsetLeft - box.offsetLeft - MARGIN;
    box.scrollLeft = Math.min(Math.max(box.scrollLeft, left - room), left);
  } catch (error) {
    if (turn === shown) box.replaceChildren(make("p", "note wrong", error.message));
  }
}

function showKey(colour) {
  const [low, , high] = at("key").children;
  at("key").classList.toggle("who", colour === "who");
  const largest = facts.largest[colour] ?? 0;
  low.textContent = colour === "who" ? "environment" : signed(-largest);
  high.textContent = colour === "who" ? "model" : signed(largest);
}

function step(by) {
  if (state.group_view) {
    const members = membersOf(state.e);
    return go({ e: members[Math.min(Math.max(members.indexOf(state.e) + by, 0), members.length - 1)] });
  }
  const e = list.near(by);
  if (e !== null && e !== undefined) go({ e }, state.e === null);
}

function toggleGroup() {
  if (state.e !== null) go({ group_view: state.group_view ? "" : "yes" }, true);
}

function back() {
  if (state.tab === "runs") go({ tab: "episodes" });
  else if (state.group_view) go({ group_view: "" });
  else if (state.e !== null) go({ e: null });
}

function nextColour() {
  go({ colour: colours[(colours.indexOf(at("colour").value) + 1) % colours.length] });
}

// ---- Keys and buttons ----

const keys = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  g: toggleGroup, c: nextColour, Escape: back,
  Enter: () => state.group_view && go({ group_view: "" }),
  r: () => go({ tab: state.tab === "runs" ? "episodes" : "runs" }, true),
  "/": () => { go({ tab: "episodes", group_view: "" }); form.elements.q.focus(); form.elements.q.select(); },
  "?": () => at("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || at("help").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.form === form)) {
      event.target.blur();
      event.preventDefault();
    }
    return;
  }
  const action = keys[event.key];
  if (!action || (event.key === "Enter" && event.target.matches("button, summary"))) return;
  if (state.tab === "runs" && event.key.startsWith("Arrow")) return;
  event.preventDefault();
  action();
});

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", () => go(Object.fromEntries(fields.map((field) => [field.name, field.value]))));
form.addEventListener("reset", (event) => {
  event.preventDefault();
  go({ ...Object.fromEntries(fields.map((field) => [field.name, ""])), sort: "" });
});
at("heads").addEventListener("click", (event) => {
  const name = event.target.dataset.sort;
  if (name) go({ sort: state.sort === `-${name}` ? name : state.sort === name ? "" : `-${name}` });
});
at("to-runs").addEventListener("click", () => go({ tab: "runs" }, true));
at("to-episodes").addEventListener("click", () => go({ tab: "episodes" }, true));
at("to-help").addEventListener("click", () => at("help").showModal());
at("back").addEventListener("click", back);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("group").addEventListener("click", toggleGroup);
at("colour").addEventListener("change", (event) => { go({ colour: event.target.value }); event.target.blur(); });
at("transcript").addEventListener("dblclick", (event) => {
  const target = event.target.closest("article");
  if (state.group_view && target) go({ e: Number(target.dataset.episode), group_view: "" }, true);
});
addEventListener("popstate", () => apply(readAddress()));
addEventListener("hashchange", () => apply(readAddress()));

options(form.elements.run, [["", "all"], ...facts.runs.map((name, n) => [n, name])]);
options(form.elements.reason, [["", "anything"], ...facts.reasons.map((name, n) => [n, name || "unknown"])]);
options(form.elements.term, Object.keys(facts.terms).map((name) => [name, name]));
options(at("colour"), colours.map((name) => [name, name === "who" ? "who wrote it" : name.replace("term:", "reward: ")]));
at("which-run").hidden = facts.runs.length === 1;
apply(readAddress());
