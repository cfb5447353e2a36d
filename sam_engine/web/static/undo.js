// What was done to a thing, step by step, and the way back.

export class Steps {
  constructor(first) {
    this.states = [first];
    this.place = 0;
  }

  get now() {
    return this.states[this.place];
  }

  get canUndo() {
    return this.place > 0;
  }

  get canRedo() {
    return this.place + 1 < this.states.length;
  }

  /** Go on to a new state; what was undone is forgotten. */
  go(state) {
    this.states.splice(++this.place, Infinity, state);
  }

  undo() {
    if (this.canUndo) this.place--;
    return this.now;
  }

  redo() {
    if (this.canRedo) this.place++;
    return this.now;
  }
}
