"use strict";
// The page is complete without this script, which adds filters, copy buttons and keyboard keys.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const items = all(".item");
  const buttons = all(".filters button");
  const query = byId("query");
  const texts = new Map();
  let flag = "";

  // The text that a reader sees; read once, when the first search needs it.
  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };

  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const item of items) {
      const flags = item.dataset.flags.split(" ");
      const shown = (!flag || flags.includes(flag)) && words.every((w) => textOf(item).includes(w));
      item.hidden = !shown;
      count += shown;
    }
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.flag === flag));
    byId("shown").value = `${count} of ${items.length} shown`;
    byId("nothing").hidden = count > 0;
  };

  const remember = () => {
    const state = new URLSearchParams();
    if (flag) state.set("show", flag);
    if (query.value) state.set("find", query.value);
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };

  const change = (to) => { flag = to; apply(); remember(); };

  const reveal = (element) => {
    if (element.hidden) { flag = ""; query.value = ""; apply(); }
    for (let e = element; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    element.scrollIntoView({ block: "start" });
  };

  // "#show=…&find=…" is a state of the filters; any other fragment is the id of an element.
  const follow = () => {
    const hash = location.hash.slice(1);
    if (hash.includes("=") && items.length) {
      const state = new URLSearchParams(hash);
      const wanted = state.get("show") || "";
      flag = buttons.some((b) => b.dataset.flag === wanted) ? wanted : "";
      query.value = state.get("find") || "";
      apply();
      byId("answers").scrollIntoView();
    } else if (hash) {
      const element = byId(hash);
      if (element) reveal(element);
    }
  };

  const step = (by) => {
    const shown = items.filter((item) => !item.hidden);
    const at = shown.indexOf(document.activeElement.closest?.(".item"));
    const next = shown[Math.max(0, Math.min(shown.length - 1, at < 0 ? 0 : at + by))];
    if (next) { next.open = true; next.querySelector("summary").focus(); }
  };

  const toggleAll = () => {
    const shown = items.filter((item) => !item.hidden);
    const open = shown.some((item) => !item.open);
    for (const item of shown) item.open = open;
  };

  const copy = async (button) => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Without a clipboard (plain http) the text is selected, so that the reader can copy it.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const d of closed) d.open = true;
  });
  addEventListener("afterprint", () => { for (const d of closed) d.open = false; });

  if (items.length) {
    byId("tools").hidden = false;
    byId("tools").addEventListener("submit", (event) => event.preventDefault());
    query.addEventListener("input", () => change(flag));
    for (const b of buttons) b.addEventListener("click", () => change(b.dataset.flag));
    byId("reset").addEventListener("click", () => { query.value = ""; change(""); });
    byId("help-button").addEventListener("click", () => byId("help").showModal());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
      if (event.target === query) {
        if (event.key === "Escape") { query.value = ""; change(flag); query.blur(); }
        return;
      }
      const act = {
        "/": () => query.focus(),
        "?": () => byId("help").showModal(),
        j: () => step(1),
        k: () => step(-1),
        e: toggleAll,
      }[event.key];
      if (act) { event.preventDefault(); act(); }
    });
    apply();
  }
  addEventListener("hashchange", follow);
  follow();
})();
