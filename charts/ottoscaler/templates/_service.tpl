{{/*
A gRPC service of ours: ServiceAccount, Role, Service, Deployment or StatefulSet, PodDisruptionBudget. Used three times.
Takes a dict:
  root, component, values   as everywhere
  prefix                    of its settings: OTTO_SCALER
  health                    the proto service that probes ask for
  variables                 the environment that the chart decides, by name
  leftOut                   values whose rights it does without (a list)
  stateful                  true: a StatefulSet of one pod
  volumes, mounts           beside those of its values (lists)
  claims                    volumeClaimTemplates (a list), stateful only
  checksums                 annotations that make new pods when what they read at their start has changed
*/}}
{{- define "ottoscaler.service" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $name := include "ottoscaler.name" . -}}
{{- $metrics := $root.Values.metrics -}}
{{- $everywhere := ternary "0.0.0.0" "[::]" (eq (toString $root.Values.ipv6) "false") -}}
{{- include "ottoscaler.company" . }}
{{- if $root.Values.rbac.create }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- include "ottoscaler.metadata" (dict "root" $root "component" .component) | nindent 2 }}
rules:
  {{- include "ottoscaler.rules" . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- include "ottoscaler.metadata" (dict "root" $root "component" .component) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "ottoscaler.serviceAccountName" . }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
---
apiVersion: v1
kind: Service
metadata:
  {{- include "ottoscaler.metadata" (dict "root" $root "component" .component "annotations" $values.service.annotations) | nindent 2 }}
spec:
  type: ClusterIP
  selector:
    {{- include "ottoscaler.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: 9090
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
---
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" (default false .stateful) }}
metadata:
  {{- include "ottoscaler.metadata" (dict "root" $root "component" .component "labels" $values.labels "annotations" $values.annotations) | nindent 2 }}
spec:
  revisionHistoryLimit: 5
  {{- if .stateful }}
  replicas: 1
  serviceName: {{ $name }}
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: {{ $values.spool.whenDeleted }}
    whenScaled: Retain
  {{- else }}
  replicas: {{ $values.replicas | int }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  {{- end }}
  selector:
    matchLabels:
      {{- include "ottoscaler.selector" . | nindent 6 }}
  template:
    metadata:
      {{- include "ottoscaler.podMetadata" . | nindent 6 }}
    spec:
      {{- include "ottoscaler.podSpec" (merge (dict "token" true "grace" (include "ottoscaler.stopSeconds" .)) .) | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ include "ottoscaler.image" (dict "root" $root "image" $values.image "name" .component) }}
          imagePullPolicy: {{ $values.image.pullPolicy | default $root.Values.image.pullPolicy }}
          securityContext:
            {{- include "ottoscaler.securityContext" $values.securityContext | nindent 12 }}
          ports:
            - {name: grpc, containerPort: 9090}
            {{- if $metrics.enabled }}
            - {name: metrics, containerPort: {{ $metrics.port | int }}}
            {{- end }}
          env:
            - name: POD_IP
              valueFrom: {fieldRef: {fieldPath: status.podIP}}
            {{- with include "ottoscaler.telemetry" . | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- $variables := merge (dict
                  "OTTO_LISTEN" (printf "%s:9090" $everywhere)
                  "OTTO_METRICS_LISTEN" (ternary (printf "%s:%d" $everywhere (int $metrics.port)) "off" $metrics.enabled)
                  "OTTO_LOG_FORMAT" "json") .variables }}
            {{- with $root.Values.tracing }}
            {{- if .endpoint }}
            {{- $variables = merge (dict
                  "OTTO_OTLP_ENDPOINT" .endpoint
                  "OTTO_TRACE_SAMPLER" .sampler
                  "OTTO_TRACE_SAMPLE_RATIO" (include "ottoscaler.scalar" .ratio)) $variables }}
            {{- end }}
            {{- end }}
            {{- $settings := list
                  (dict "prefix" "OTTO_KUBE" "values" $root.Values.kube)
                  (dict "prefix" "OTTO" "values" $root.Values.runtime)
                  (dict "prefix" "OTTO" "values" $values.runtime)
                  (dict "prefix" .prefix "values" $values.settings) }}
            {{- include "ottoscaler.env" (dict "variables" $variables "settings" $settings) | nindent 12 }}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with $values.extraEnvFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- include "ottoscaler.probes" (dict "values" $values "probe" (dict "grpc" (dict "port" 9090 "service" .health))) | nindent 10 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- with concat (.mounts | default list) $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        {{- with $values.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        - {name: tmp, emptyDir: {}}
        {{- with concat (.volumes | default list) $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  {{- with .claims }}
  volumeClaimTemplates:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
