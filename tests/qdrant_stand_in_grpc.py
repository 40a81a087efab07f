"""The gRPC side of the stand-in: the same answers as over REST, through the client's own conversions."""

# ruff: noqa: N802 - the names of the protocol

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc as rpc
import qdrant_stand_in as rest
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc

_CODES = {
    400: rpc.StatusCode.INVALID_ARGUMENT,
    401: rpc.StatusCode.UNAUTHENTICATED,
    404: rpc.StatusCode.NOT_FOUND,
    409: rpc.StatusCode.ALREADY_EXISTS,
    429: rpc.StatusCode.RESOURCE_EXHAUSTED,
    503: rpc.StatusCode.UNAVAILABLE,
}
DONE = grpc.UpdateResult(status=grpc.UpdateStatus.Completed)


def serve(served: rest.Served, port: int) -> rpc.Server:
    """A running server."""
    server = rpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 32 << 20)])
    points_service_pb2_grpc.add_PointsServicer_to_server(Points(served), server)
    collections_service_pb2_grpc.add_CollectionsServicer_to_server(Collections(served), server)
    qdrant_pb2_grpc.add_QdrantServicer_to_server(Root(), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


class _Service:
    def __init__(self, served: rest.Served) -> None:
        self.served = served

    @contextmanager
    def calling(self, context: Any) -> Iterator[rest.Served]:
        key = os.environ.get("QDRANT_KEY", "")
        if key and dict(context.invocation_metadata()).get("api-key") != key:
            context.abort(_CODES[401], "Must provide an API key")
        try:
            with self.served.lock:
                yield self.served
        except rest.Refused as refused:
            context.abort(_CODES[refused.status], refused.error)
        except ValueError as error:
            context.abort(_CODES[rest.status_of(str(error))], str(error))

    def same(self, answer: rest.Answer, context: Any, name: str, body: Any, rest_of_path: str = "") -> Any:
        """What REST answers to a body, a model or what is JSON."""
        if hasattr(body, "model_dump"):
            body = body.model_dump(exclude_none=True)
        with self.calling(context) as served:
            return answer(served, name, rest_of_path, body)


def payload_of(request: Any) -> Any:
    return GrpcToRest.convert_with_payload_selector(request.with_payload)


def vectors_of(request: Any) -> Any:
    return GrpcToRest.convert_with_vectors_selector(request.with_vectors)


def where_of(request: Any) -> Any:
    return (
        GrpcToRest.convert_filter(request.filter).model_dump(exclude_none=True) if request.HasField("filter") else None
    )


def records(found: Any) -> Any:
    return [RestToGrpc.convert_retrieved_point(point) for point in found]


class Points(_Service, points_service_pb2_grpc.PointsServicer):
    """Records."""

    def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point).model_dump() for point in request.points]
        self.same(rest.upsert, context, request.collection_name, {"points": points})
        return grpc.PointsOperationResponse(result=DONE)

    def Delete(self, request: Any, context: Any) -> Any:
        selector = GrpcToRest.convert_points_selector(request.points)
        self.same(rest.remove, context, request.collection_name, selector)
        return grpc.PointsOperationResponse(result=DONE)

    def Get(self, request: Any, context: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(found) for found in request.ids]
        body = {"ids": ids, "with_payload": payload_of(request), "with_vector": vectors_of(request)}
        return grpc.GetResponse(result=records(self.same(rest.retrieve, context, request.collection_name, body)))

    def Scroll(self, request: Any, context: Any) -> Any:
        body = {
            "filter": where_of(request),
            "limit": request.limit,
            "offset": GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            "with_payload": payload_of(request),
            "with_vector": vectors_of(request),
        }
        found = self.same(rest.scroll, context, request.collection_name, body)
        after = found["next_page_offset"]
        return grpc.ScrollResponse(
            result=records(found["points"]),
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    def Count(self, request: Any, context: Any) -> Any:
        found = self.same(rest.count, context, request.collection_name, {"filter": where_of(request)})
        return grpc.CountResponse(result=grpc.CountResult(count=found.count))

    def Query(self, request: Any, context: Any) -> Any:
        return grpc.QueryResponse(result=self._searched(request, context))

    def QueryBatch(self, request: Any, context: Any) -> Any:
        for asked in request.query_points:
            asked.collection_name = request.collection_name
        results = [grpc.BatchResult(result=self._searched(asked, context)) for asked in request.query_points]
        return grpc.QueryBatchResponse(result=results)

    def _searched(self, request: Any, context: Any) -> Any:
        body = GrpcToRest.convert_query_points(request)
        found = self.same(rest.search_one, context, request.collection_name, body)
        return [RestToGrpc.convert_scored_point(point) for point in found.points]

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        steps = [GrpcToRest.convert_points_update_operation(step).model_dump() for step in request.operations]
        self.same(rest.batch, context, request.collection_name, {"operations": steps})
        return grpc.UpdateBatchResponse(result=[DONE] * len(steps))

    def UpdateVectors(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_vectors(point).model_dump() for point in request.points]
        self.same(rest.vectors, context, request.collection_name, {"points": points})
        return grpc.PointsOperationResponse(result=DONE)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        kind = grpc.FieldType.Name(request.field_type).removeprefix("FieldType").lower()
        body = {"field_name": request.field_name, "field_schema": kind}
        self.same(rest.index, context, request.collection_name, body)
        return grpc.PointsOperationResponse(result=DONE)

    def CreateVectorName(self, request: Any, context: Any) -> Any:
        dense = request.dense_config
        config = {"size": dense.size, "distance": GrpcToRest.convert_distance(dense.distance)}
        self.same(
            rest.add_vector, context, request.collection_name, {"dense": config}, f"/vectors/{request.vector_name}"
        )
        return grpc.PointsOperationResponse(result=DONE)


class Collections(_Service, collections_service_pb2_grpc.CollectionsServicer):
    """Collections and aliases."""

    def Get(self, request: Any, context: Any) -> Any:
        found = self.same(rest.info, context, request.collection_name, None)
        return grpc.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(found))

    def List(self, _request: Any, context: Any) -> Any:
        found = self.same(rest.collections, context, "", None).collections
        return grpc.ListCollectionsResponse(collections=[grpc.CollectionDescription(name=c.name) for c in found])

    def ListAliases(self, _request: Any, context: Any) -> Any:
        found = self.same(rest.aliases, context, "", None).aliases
        return grpc.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(alias) for alias in found])

    def Create(self, request: Any, context: Any) -> Any:
        body = models.CreateCollection(
            vectors=GrpcToRest.convert_vectors_config(request.vectors_config),
            metadata=GrpcToRest.convert_payload(request.metadata),
            strict_mode_config=GrpcToRest.convert_strict_mode_config(request.strict_mode_config),
        )
        self.same(rest.create, context, request.collection_name, body)
        return grpc.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:
        body = {"metadata": GrpcToRest.convert_payload(request.metadata)}
        self.same(rest.update, context, request.collection_name, body)
        return grpc.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        return grpc.CollectionOperationResponse(result=self.same(rest.delete, context, request.collection_name, None))

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        steps = [GrpcToRest.convert_alias_operations(step).model_dump() for step in request.actions]
        self.same(rest.change_aliases, context, "", {"actions": steps})
        return grpc.CollectionOperationResponse(result=True)


class Root(qdrant_pb2_grpc.QdrantServicer):
    """The version."""

    def HealthCheck(self, _request: Any, _context: Any) -> Any:
        return grpc.HealthCheckReply(title="stand-in", version=os.environ.get("QDRANT_VERSION", "1.20.0"))
