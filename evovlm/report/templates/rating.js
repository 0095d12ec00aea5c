"use strict";
const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", u: "undo", U: "undo" };
const form = document.querySelector(".rating");
document.addEventListener("keydown", (event) => {
  const chosen = keys[event.key];
  const button = chosen && form.querySelector(`button[value="${chosen}"]`);
  // A key that is held down must not answer the next questions.
  if (button && !event.repeat && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    button.click();
  }
});
