// Transcripts: fetched chunk by chunk as they are needed, and shown in the colours of who wrote what and what it was worth.
"use strict";

const KEPT = 16; // chunks that are held in memory
const FOLD = 600; // a reply of the environment that is longer is folded

const waiting = new Map();
const recent = [];

/** Number of the chunk that holds an episode: the last one that does not begin after it. */
function chunkOf(episode) {
  let [low, high] = [0, facts.chunks.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (facts.chunks[middle][1] <= episode) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Load a chunk with a script element, since a page from disk may fetch nothing. */
function load(name) {
  if (view.chunks[name]) return Promise.resolve(view.chunks[name]);
  if (!waiting.has(name)) {
    const loaded = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${name}`;
      const end = () => {
        script.remove();
        waiting.delete(name);
        if (view.chunks[name]) resolve(view.chunks[name]);
        else reject(new Error("These texts are not there any more: the page was written anew. Reload it."));
      };
      script.addEventListener("load", end);
      script.addEventListener("error", end);
      document.head.append(script);
    });
    waiting.set(name, loaded);
  }
  return waiting.get(name);
}

/** The stored texts of an episode. */
async function textsOf(episode) {
  const [name, first] = facts.chunks[chunkOf(episode)];
  const chunk = await load(name);
  if (recent.includes(name)) recent.splice(recent.indexOf(name), 1);
  recent.push(name);
  while (recent.length > KEPT) delete view.chunks[recent.shift()];
  const texts = chunk.episodes[episode - first];
  return { ...texts, prompt: chunk.prompts[texts.prompt] };
}

function signed(value) {
  const text = value.toFixed(2);
  return Number(text) === 0 ? "0.00" : (value > 0 ? "+" : "−") + text.replace("-", "");
}

/** What a turn is worth in a colouring; null where that says nothing of it. */
function worth(turn, colour) {
  return colour === "advantage" ? turn.advantage : turn.rewards[colour.slice("term:".length)] ?? null;
}

/** Cut a model's text into pieces of one value each. Runs store no tokens yet, so a turn is one piece. */
function pieces(turn, colour) {
  return [{ text: turn.text, value: colour === "who" ? null : worth(turn, colour) }];
}

function tint(element, value, colour) {
  const largest = facts.largest[colour] || 1;
  if (value) element.classList.add(value > 0 ? "pos" : "neg");
  if (value) element.style.setProperty("--a", Math.min(1, Math.abs(value) / largest).toFixed(3));
}

function chips(turn, colour) {
  const line = make("div", "chips");
  if (turn.advantage !== null) line.append(make("span", colour === "advantage" ? "chip on" : "chip", `advantage ${signed(turn.advantage)}`));
  for (const [name, value] of Object.entries(turn.rewards)) {
    if (value !== null) line.append(make("span", colour === `term:${name}` ? "chip on" : "chip", `${name} ${signed(value)}`));
  }
  for (const error of turn.errors) line.append(make("span", "chip wrong", `⚠ ${error}`));
  if (turn.lenient) line.append(make("span", "chip", "read leniently"));
  if (turn.answer !== null) line.append(make("span", "chip answer", `answer: ${turn.answer}`));
  return line;
}

function modelBlock(turn, at, colour) {
  const block = make("div", "block model");
  const text = make("pre");
  for (const piece of pieces(turn, colour)) {
    const span = make("span", "piece", piece.text);
    tint(span, piece.value, colour);
    tint(block, piece.value, colour);
    text.append(span);
  }
  const head = make("div", "head");
  head.append(make("b", "", `Turn ${at + 1}`), make("span", "by", "model"));
  block.append(head, text, chips(turn, colour));
  return block;
}

/** What the environment said, folded where it is long. */
function environmentBlock(message, folded) {
  const block = make("div", "block environment");
  const text = message.text.trim();
  block.append(make("span", "by", message.by));
  if (folded && text.length > FOLD) {
    const details = make("details");
    details.append(make("summary", "", `${text.slice(0, 200)}…`), make("pre", "", text));
    block.append(details);
  } else block.append(make("pre", "", text));
  return block;
}

/** What an episode was asked. */
function questionOf(texts) {
  const parts = [make("h2", "", texts.question)];
  if (texts.answers.length) parts.push(make("p", "note", `Accepted: ${texts.answers.join(" | ")}`));
  return parts;
}

/** How an episode ended, and where it stands; in a group, whose head says the rest, only what tells it apart. */
function headOf(episode, texts, alone) {
  const head = make("header");
  const was = success(episode);
  const at = [];
  const [run, update, group] = [columns.run[episode], columns.update[episode], columns.group[episode]];
  if (facts.runs.length > 1 && (alone || group === null)) at.push(facts.runs[run]);
  if (alone && update !== null) at.push(`update ${update}`);
  if (alone && group !== null) at.push(`group ${group}`);
  const line = make("p", "where", at.join(" · "));
  const mark = make("b", was === 1 ? "good" : was === 0 ? "bad" : "", was === 1 ? "✓ success" : was === 0 ? "✗ failure" : "not scored");
  line.prepend(mark, at.length ? " · " : "");
  if (texts.reason) line.append(` · ended by ${texts.reason}`);
  head.append(line, ...(alone ? questionOf(texts) : []));
  return head;
}

/** An episode as an article. */
function article(episode, texts, colour, alone) {
  const whole = make("article", colour === "who" ? "who" : "");
  whole.dataset.episode = episode;
  whole.append(headOf(episode, texts, alone));
  const told = make("details", "told");
  told.append(make("summary", "", "What the model was told first"));
  told.append(...texts.prompt.map((message) => environmentBlock(message, false)));
  whole.append(told);
  texts.turns.forEach((turn, at) => {
    whole.append(modelBlock(turn, at, colour), ...turn.said.map((message) => environmentBlock(message, true)));
  });
  if (!texts.turns.length) whole.append(make("p", "note", "No turn was played."));
  const more = Object.entries(texts.facts).map(([name, value]) => `${name} ${value}`);
  whole.append(make("p", "note facts", more.join(" · ")));
  return whole;
}
