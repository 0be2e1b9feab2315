// Follows a run: when its record grows, the page is fetched again and what changed of it is put in place.
// Without this script every page works; it only has to be loaded anew.
"use strict";
(() => {
  const main = document.querySelector("main[data-live]");
  if (!main) return;
  const state = document.getElementById("live-state");
  let busy = false;
  let again = false;

  async function refresh() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.querySelector("main");
      if (next) {
        Idiomorph.morph(main, next, {
          ignoreActiveValue: true,
          callbacks: {
            // What the reader opened or closed stays as it is.
            beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
          },
        });
      }
    } finally {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  const events = new EventSource(main.dataset.live);
  events.addEventListener("changed", refresh);
  events.addEventListener("finished", () => {
    events.close();
    state.textContent = "finished";
    refresh();
  });
  events.onopen = () => { state.textContent = "live"; };
  events.onerror = () => { state.textContent = "not connected"; };
  window.addEventListener("pagehide", () => events.close());
})();
