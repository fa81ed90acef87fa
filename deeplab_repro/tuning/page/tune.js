"use strict";
// The sliders, and the requests that they cause.  A preview that is under way is waited for, or
// none would ever be seen while one drags; what waits behind it is always the newest state.  The
// whole picture follows when the sliders rest, and is given up as soon as they move.
(() => {
  const PAUSE = 150; // ms of rest before the whole picture is computed
  const NUMBERS = ["iterations", "pos_w", "pos_xy_std", "bi_w", "bi_xy_std", "bi_rgb_std"];
  const get = (id) => document.getElementById(id);
  const setup = JSON.parse(get("setup").textContent);
  const page = String(Math.random()).slice(2);
  let turn = 0;
  let busy = false; // a preview is under way
  let changed = false; // since it was asked for
  let timer = null;
  let texts = {};
  let shownText = "params";

  function option(select, value, text) {
    const item = document.createElement("option");
    item.value = value;
    item.textContent = text;
    select.append(item);
  }

  function query(stage) {
    const values = new URLSearchParams({ stage, page, turn: ++turn, label: get("label").value });
    for (const name of NUMBERS) values.set(name, get(name).value);
    return values;
  }

  function say(text, bad) {
    get("state").textContent = text;
    get("state").classList.toggle("bad", Boolean(bad));
  }

  // Whether there was a result; none where a newer request has taken its place.
  async function ask(stage) {
    const values = query(stage);
    const own = turn;
    try {
      const response = await fetch(`result?${values}`);
      const answer = await response.json();
      if (own !== turn || response.status === 409) return false;
      if (!response.ok) {
        say(answer.error, true);
        return false;
      }
      show(answer);
      return true;
    } catch (error) {
      if (own === turn) say("The program does not answer: has it ended?", true);
      return false;
    }
  }

  function show(answer) {
    for (const panel of ["labels", "borders", "marginals"]) get(panel).src = answer[panel];
    const entries = answer.classes.map(({ id, share }) => {
      const item = document.createElement("li");
      const colour = document.createElement("i");
      colour.style.background = setup.classes[id].colour;
      item.append(colour, `${setup.classes[id].name} ${(100 * share).toFixed(1)} %`);
      return item;
    });
    get("legend").replaceChildren(...entries);
    texts = answer.texts;
    get("text").textContent = texts[shownText];
    const [width, height] = answer.size;
    const what = answer.stage === "full" || !setup.preview ? "whole picture" : "preview";
    say(`${what}, ${width} x ${height}: ${(100 * answer.changed).toFixed(1)} % of the pixels have`
      + ` another label than before, ${Math.round(answer.ms)} ms`);
    document.body.dataset.shown = setup.preview ? answer.stage : "full";
  }

  async function work() {
    clearTimeout(timer);
    changed = true;
    if (busy) return;
    busy = true;
    let good = false;
    while (changed) {
      changed = false;
      good = await ask("preview");
    }
    busy = false;
    if (good && setup.preview) timer = setTimeout(() => ask("full"), PAUSE);
  }

  function choose() {
    const { values } = setup.presets.find(({ name }) => name === get("preset").value);
    for (const name of NUMBERS) get(name).value = get(`${name}-slider`).value = values[name];
  }

  for (const { name } of setup.presets) option(get("preset"), name, name);
  option(get("preset"), "", "(your own)");
  setup.classes.forEach(({ name }, i) => option(get("label"), i, name));
  get("preset").value = setup.start;
  choose();
  get("preset").addEventListener("change", () => {
    if (get("preset").value === "") return;
    choose();
    work();
  });
  for (const name of NUMBERS) {
    for (const [from, to] of [[name, `${name}-slider`], [`${name}-slider`, name]]) {
      get(from).addEventListener("input", () => {
        get(to).value = get(from).value;
        get("preset").value = "";
        work();
      });
    }
  }
  get("label").addEventListener("change", work);
  for (const name of ["params", "command", "pydensecrf"]) {
    get(`copy-${name}`).addEventListener("click", async () => {
      shownText = name;
      get("text").textContent = texts[name] || "";
      try {
        await navigator.clipboard.writeText(texts[name]);
        get("copied").textContent = "copied";
      } catch (error) {
        get("copied").textContent = "the browser does not allow it: copy the text below";
      }
    });
  }
  work();
})();
