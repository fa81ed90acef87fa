// As much of a browser's document as the page's script needs, for Node:
// node dom.js ADDRESS SCRIPT, where the first line of SCRIPT is the page's setup.
"use strict";
const { readFileSync } = require("node:fs");

class Element extends EventTarget {
  constructor() {
    super();
    Object.assign(this, { held: "", own: "", children: [], dataset: {}, style: {}, src: "" });
    const words = new Set();
    this.classList = {
      toggle: (word, on) => (on ? words.add(word) : words.delete(word)),
      contains: (word) => words.has(word),
    };
  }

  get value() {
    return this.held;
  }

  set value(value) {
    this.held = String(value);
  }

  get textContent() {
    return this.own + this.children.map((child) => child.textContent ?? child).join("");
  }

  set textContent(text) {
    this.own = String(text);
    this.children = [];
  }

  append(...children) {
    this.children.push(...children);
  }

  replaceChildren(...children) {
    this.own = "";
    this.children = children;
  }

  click() {
    this.dispatchEvent(new Event("click"));
  }
}

const [address, file] = process.argv.slice(2);
const [setup, ...script] = readFileSync(file, "utf-8").split("\n");
const elements = new Map();
globalThis.document = {
  body: new Element(),
  createElement: () => new Element(),
  getElementById: (id) => elements.get(id) ?? elements.set(id, new Element()).get(id),
};
document.getElementById("setup").textContent = setup;
document.getElementById("label").value = "0"; // a select has the value of its first option
const { fetch } = globalThis;
globalThis.fetch = (path) => fetch(address + path);
(0, eval)(script.join("\n"));
const timer = setInterval(() => {
  if (!document.body.dataset.report) return;
  clearInterval(timer);
  console.log(document.body.dataset.report);
}, 10);
