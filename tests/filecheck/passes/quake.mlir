// RUN: kaoken-opt %s -p 'lower-math{precision=quake1}' | filecheck %s --check-prefix=ONE
// RUN: kaoken-opt %s -p 'lower-math{precision=quake1},lower-math' | filecheck %s --check-prefix=ONE
// RUN: kaoken-opt %s -p 'lower-math{precision=quake2}' | filecheck %s --check-prefix=TWO

// Order one shifts the number into a float's word; order two has a parabola and the exponent alone.
// ONE-LABEL: func.func @exp
// TWO-LABEL: func.func @exp
// ONE:      %[[fixed:.*]] = math.fma %{{.*}}, %{{.*}}, %{{.*}} : vector<8x48xf32>
// ONE:      %[[high:.*]] = arith.minimumf %{{.*}}, %[[fixed]] : vector<8x48xf32>
// ONE:      %[[low:.*]] = arith.maximumf %{{.*}}, %[[high]] : vector<8x48xf32>
// ONE-NEXT: %[[word:.*]] = arith.bitcast %[[low]] : vector<8x48xf32> to vector<8x48xi32>
// ONE-NEXT: %[[places:.*]] = arith.constant dense<9> : vector<8x48xi32>
// ONE-NEXT: %[[shifted:.*]] = arith.shli %[[word]], %[[places]] : vector<8x48xi32>
// ONE-NEXT: %[[power:.*]] = arith.bitcast %[[shifted]] : vector<8x48xi32> to vector<8x48xf32>
// ONE-NEXT: %[[zero:.*]] = arith.constant dense<0.000000e+00> : vector<8x48xf32>
// ONE-NEXT: %[[y:.*]] = math.fma %[[low]], %[[zero]], %[[power]] : vector<8x48xf32>
// TWO-COUNT-4: math.fma
// TWO:      arith.shli
// TWO:      %[[y:.*]] = arith.mulf
// ONE-NEXT: func.return %[[y]]
// TWO-NEXT: func.return %[[y]]
func.func @exp(%x: vector<8x48xf32>) -> vector<8x48xf32> {
  %y = math.exp %x : vector<8x48xf32>
  return %y : vector<8x48xf32>
}

// The sign goes into the constant, the division into a subtraction of words.
// ONE-LABEL: func.func @silu
// TWO-LABEL: func.func @silu
// ONE-NOT: arith.negf
// TWO-NOT: arith.negf
// ONE-NOT: arith.divf
// TWO-NOT: arith.divf
// ONE:      %[[d:.*]] = arith.subf %{{.*}}, %{{.*}} : vector<16xf32>
// ONE-NEXT: %[[word:.*]] = arith.bitcast %[[d]]
// ONE-NEXT: arith.constant
// ONE-NEXT: %[[difference:.*]] = arith.subi %{{.*}}, %[[word]] : vector<16xi32>
// ONE-NEXT: %[[start:.*]] = arith.bitcast %[[difference]]
// ONE-NEXT: arith.constant
// ONE-NEXT: %[[correction:.*]] = math.fma %[[d]], %[[start]], %{{.*}} : vector<16xf32>
// ONE-NEXT: arith.constant
// ONE-NEXT: %[[logistic:.*]] = math.fma %[[start]], %[[correction]], %{{.*}} : vector<16xf32>
// ONE-NEXT: arith.mulf %{{.*}}, %[[logistic]] : vector<16xf32>
func.func @silu(%x: vector<16xf32>) -> vector<16xf32> {
  %one = arith.constant dense<1.0> : vector<16xf32>
  %n = arith.negf %x : vector<16xf32>
  %e = math.exp %n : vector<16xf32>
  %d = arith.addf %one, %e : vector<16xf32>
  %s = arith.divf %one, %d : vector<16xf32>
  %y = arith.mulf %x, %s : vector<16xf32>
  return %y : vector<16xf32>
}

// GELU of order one is x times a logistic function; order two leaves it as it is.
// ONE-LABEL: func.func @gelu
// TWO-LABEL: func.func @gelu
// ONE-NOT: arith.divf
// TWO: arith.divf
// ONE: func.return
// TWO: func.return
func.func @gelu(%x: vector<16xf32>) -> vector<16xf32> {
  %c = arith.constant dense<0.707106769> : vector<16xf32>
  %z = arith.mulf %x, %c : vector<16xf32>
  %k = arith.constant dense<5.0e-1> : vector<16xf32>
  %h = arith.mulf %x, %k : vector<16xf32>
  %e = math.erf %z : vector<16xf32>
  %y = vector.fma %h, %e, %h : vector<16xf32>
  return %y : vector<16xf32>
}

// A division of another kind stays, and so does erf alone, in the exact formula, which divides too.
// ONE-LABEL: func.func @others
// TWO-LABEL: func.func @others
// ONE: arith.divf
// TWO: arith.divf
// ONE: arith.divf
// TWO: arith.divf
// ONE: func.return
// TWO: func.return
func.func @others(%x: f32, %y: f32) -> (f32, f32) {
  %one = arith.constant 1.0 : f32
  %q = arith.divf %one, %y : f32
  %e = math.erf %x : f32
  return %q, %e : f32, f32
}
